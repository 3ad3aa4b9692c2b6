/** Why there is no connection to a daemon, as an error that says what to do. Pure. */
import { errorCode } from '../base/errors.ts';
import { ClientError } from './errors.ts';

/** Where it should be. */
export type DaemonPlace = { readonly socketPath: string } | { readonly url: URL };

const FORBIDDEN: ReadonlySet<string> = new Set(['EACCES', 'EPERM']);
const UNREACHABLE: ReadonlySet<string> = new Set([
  'ENOENT',
  'ECONNREFUSED',
  'ENOTSOCK',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ETIMEDOUT',
]);
const LOOPBACK: ReadonlySet<string> = new Set(['127.0.0.1', 'localhost', '[::1]']);

/** @param cause of Node's, when it connected, asked, or read the answer */
export function connectFailure(cause: unknown, place: DaemonPlace): ClientError {
  const code = errorCode(cause) ?? '';
  const isSocket = 'socketPath' in place;
  const where = isSocket ? place.socketPath : place.url.origin;
  if (isSocket && FORBIDDEN.has(code)) {
    return new ClientError('unauthorized', `this user may not use the daemon at ${where}`, {
      cause,
      remedy: 'be the user who started it, or set NEUROVISOR_HOME to a folder of your own',
    });
  }
  if (UNREACHABLE.has(code) || FORBIDDEN.has(code)) {
    const remedy = isSocket ? 'start it: neurovisor serve' : remedyOfUrl(place.url);
    return new ClientError('daemon_unreachable', `no daemon is running at ${where}`, {
      cause,
      remedy,
    });
  }
  return new ClientError('daemon_lost', `the daemon at ${where} went away`, {
    cause,
    remedy: 'start it again: neurovisor serve',
  });
}

function remedyOfUrl({ hostname, port }: URL): string {
  const start = `neurovisor serve --port ${port === '' ? 80 : port}`;
  const there = LOOPBACK.has(hostname) ? '' : ' on that machine';
  return `check the address (NEUROVISOR_URL), or start it${there}: ${start}`;
}
