/**
 * Finds the users whose sockets listen at a port of the loopback interface (io). Any local user may bind the default
 * port of a model server, and would then read all prompts and write all answers.
 */
import { readFile } from 'node:fs/promises';

const LISTEN = '0A';
/** Local addresses that accept connections to 127.0.0.1, as the kernel writes them on little-endian machines. */
const LOOPBACK_ADDRESSES = new Set(['0100007F', '00000000', '0'.repeat(32), '0000000000000000FFFF00000100007F']);

/** User ids of all sockets that listen at 127.0.0.1 and this port. Empty if there are none, or they are not visible. */
export async function listenerOwners(port: number): Promise<readonly number[]> {
  const tables = await Promise.all(
    ['/proc/self/net/tcp', '/proc/self/net/tcp6'].map((path) =>
      // Without IPv6 there is no tcp6.
      readFile(path, 'latin1').catch(() => ''),
    ),
  );
  return [...new Set(tables.flatMap((table) => listeningUids(table, port)))];
}

/** @param table text of `/proc/net/tcp` or `tcp6` */
export function listeningUids(table: string, port: number): number[] {
  const local = port.toString(16).toUpperCase().padStart(4, '0');
  const uids: number[] = [];
  for (const line of table.split('\n').slice(1)) {
    const [, address = '', , state, , , , uid = ''] = line.trim().split(/\s+/);
    const [host = '', at] = address.split(':');
    if (state === LISTEN && at === local && LOOPBACK_ADDRESSES.has(host)) uids.push(Number(uid));
  }
  return uids;
}

export function isTrustedOwner(uids: readonly number[]): boolean {
  const own = process.getuid?.() ?? 0;
  return uids.length > 0 && uids.every((uid) => uid === 0 || uid === own);
}

/** User names for logs, e.g. `ollama (uid 998)`. */
export async function describeOwners(uids: readonly number[]): Promise<string> {
  if (uids.length === 0) return 'an unknown user';
  const passwd = await readFile('/etc/passwd', 'utf8').catch(() => '');
  const names = new Map(passwd.split('\n').map((line) => [Number(line.split(':')[2] ?? ''), line.split(':')[0]]));
  return uids.map((uid) => (uid === 0 ? 'root' : `${names.get(uid) ?? 'uid'} (uid ${uid})`)).join(', ');
}
