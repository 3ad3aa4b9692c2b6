/** Concurrent work that stops at the first failure. */

/**
 * Returns the results once all have ended, so that nothing is still running when an error is thrown.
 * @param signal aborts all of them
 * @throws the first error
 */
export async function together<const Works extends readonly unknown[]>(
  signal: AbortSignal,
  works: { readonly [Index in keyof Works]: (signal: AbortSignal) => Promise<Works[Index]> },
): Promise<Works> {
  const failed = new AbortController();
  const both = AbortSignal.any([signal, failed.signal]);
  const running = works.map((work) => work(both));
  for (const one of running) one.catch((error: unknown) => failed.abort(error));
  await Promise.allSettled(running);
  if (failed.signal.aborted && !signal.aborted) throw failed.signal.reason;
  return (await Promise.all(running)) as unknown as Works;
}
