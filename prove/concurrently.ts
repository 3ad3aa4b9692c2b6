/**
 * Runs `work` for 0 … count - 1, at most `atOnce` at a time; after a failure no more are started. @throws the first
 * failure
 */
export async function concurrently(
  count: number,
  atOnce: number,
  work: (index: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) {
      const index = next;
      next += 1;
      try {
        await work(index);
      } catch (error) {
        next = count;
        throw error;
      }
    }
  };
  const ended = await Promise.allSettled(Array.from({ length: Math.min(atOnce, count) }, worker));
  for (const one of ended) if (one.status === 'rejected') throw one.reason;
}
