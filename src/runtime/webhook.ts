/** Posts an event of a sandbox to the address that its owner has named (io). */

const POST_MS_MAX = 5000;

/** @throws Error when it did not arrive, or was not answered by a status of success */
export async function postEvent(url: string, event: object): Promise<void> {
  const answer = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(event),
    // Where it goes is the owner's to say, and nobody else's.
    redirect: 'error',
    signal: AbortSignal.timeout(POST_MS_MAX),
  });
  await answer.body?.cancel();
  if (!answer.ok) throw new Error(`it was answered by status ${answer.status}`);
}
