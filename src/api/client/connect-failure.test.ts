import { describe, expect, it } from 'vitest';
import { connectFailure, type DaemonPlace } from './connect-failure.ts';

const SOCKET: DaemonPlace = { socketPath: '/run/x/daemon.sock' };
const at = (url: string): DaemonPlace => ({ url: new URL(url) });
const error = (code: string): Error => Object.assign(new Error(`connect ${code}`), { code });

describe('connectFailure', () => {
  it.each([
    ['ENOENT', SOCKET, 'daemon_unreachable', 'no daemon is running', 'start one: neurovisor serve'],
    ['ECONNREFUSED', SOCKET, 'daemon_unreachable', 'no daemon is running', 'neurovisor serve'],
    ['EACCES', SOCKET, 'unauthorized', 'no permission to use the daemon', 'NEUROVISOR_HOME'],
    ['ECONNRESET', SOCKET, 'daemon_lost', 'lost the connection', 'restart it'],
    [
      'ECONNREFUSED',
      at('http://127.0.0.1:7070'),
      'daemon_unreachable',
      'no daemon is running at http://127.0.0.1:7070',
      'or start a daemon: neurovisor serve --port 7070',
    ],
    [
      'ENOTFOUND',
      at('http://host.example'),
      'daemon_unreachable',
      'no daemon',
      'start a daemon on that machine: neurovisor serve --port 80',
    ],
    // Caused by a firewall of this host, not by a missing permission.
    ['EACCES', at('http://127.0.0.1:7070'), 'daemon_unreachable', 'no daemon', 'NEUROVISOR_URL'],
  ])('%s at %o: %s', (code, place, expected, message, remedy) => {
    const failure = connectFailure(error(code), place);
    expect(failure.code).toBe(expected);
    expect(failure.message).toContain(message);
    expect(failure.remedy).toContain(remedy);
  });
});
