/** Posts a sandbox's event to the URL that its owner has set (io). */

const POST_MS_MAX = 5000;

/** @throws Error: not delivered, or not answered with a success status */
export async function postEvent(url: string, event: object): Promise<void> {
  const answer = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(event),
    // Only the owner decides where events go.
    redirect: 'error',
    signal: AbortSignal.timeout(POST_MS_MAX),
  });
  await answer.body?.cancel();
  if (!answer.ok) throw new Error(`the server answered with status ${answer.status}`);
}
