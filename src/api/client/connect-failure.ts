/** Turns a failed connection to a daemon into an error with a remedy. Pure. */
import { errorCode } from '../../base/errors.ts';
import { ClientError } from './errors.ts';

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

/** @param cause Node's error while connecting, sending or reading the answer */
export function connectFailure(cause: unknown, place: DaemonPlace): ClientError {
  const code = errorCode(cause) ?? '';
  const isSocket = 'socketPath' in place;
  const where = isSocket ? place.socketPath : place.url.origin;
  if (isSocket && FORBIDDEN.has(code)) {
    return new ClientError('unauthorized', `no permission to use the daemon at ${where}`, {
      cause,
      remedy: 'run as the user who started it, or set NEUROVISOR_HOME to your own directory',
    });
  }
  if (UNREACHABLE.has(code) || FORBIDDEN.has(code)) {
    const remedy = isSocket ? 'start one: neurovisor serve' : remedyOfUrl(place.url);
    return new ClientError('daemon_unreachable', `no daemon is running at ${where}`, { cause, remedy });
  }
  return new ClientError('daemon_lost', `lost the connection to the daemon at ${where}`, {
    cause,
    remedy: 'restart it: neurovisor serve',
  });
}

function remedyOfUrl({ hostname, port }: URL): string {
  const start = `neurovisor serve --port ${port === '' ? 80 : port}`;
  const there = LOOPBACK.has(hostname) ? '' : ' on that machine';
  return `check the address (NEUROVISOR_URL), or start a daemon${there}: ${start}`;
}
