/** The client's side of a session (`../rest/sessions.ts`): a connection that stays open for the life of the client. */
import type { IncomingMessage } from 'node:http';
import { ignore } from '../../base/ignore.ts';
import { answerInvalid } from './errors.ts';
import { type ServerSent, serverSent } from './server-sent.ts';

const LINE_CHARACTERS_MAX = 1024;

/** Opens a session that lasts until the signal is aborted or this process ends. Returns its id. @throws ClientError */
export async function openSession(
  open: (signal: AbortSignal) => Promise<IncomingMessage>,
  signal: AbortSignal,
): Promise<string> {
  const events = serverSent(await open(signal), LINE_CHARACTERS_MAX);
  const first = await events.next();
  const id = first.done === true ? undefined : idOf(first.value);
  if (id === undefined) throw answerInvalid('a session without an id');
  // Keeps reading, so that the connection stays open.
  discard(events).catch((error: unknown) => ignore(error, 'this client or the daemon has ended'));
  return id;
}

function idOf({ event, data }: ServerSent): string | undefined {
  return event === 'session' ? /^\{"id":"([0-9a-f]{32})"\}$/.exec(data)?.[1] : undefined;
}

async function discard(events: AsyncGenerator<unknown>): Promise<void> {
  let isDone: boolean | undefined = false;
  while (isDone !== true) isDone = (await events.next()).done;
}
