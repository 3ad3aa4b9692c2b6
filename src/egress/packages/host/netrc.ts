/**
 * Reads names and passwords of hosts: `.netrc` (curl's and the GNU inetutils' manuals), apt's auth.conf
 * (apt_auth.conf(5)). Pure.
 */
import { join } from 'node:path';
import type { Index } from '../upstream/index-set.ts';
import type { HostFiles } from './host-files.ts';

export interface Login {
  /** A host name; in apt's files also `[scheme://]host[:port][/path]`. */
  readonly machine: string;
  readonly login: string;
  readonly password: string;
}

/** Entries with a password. Skips `default`, which would send a password to every index. */
export function parseNetrc(text: string): readonly Login[] {
  const logins: Login[] = [];
  let open: { machine: string; login: string; password: string } | undefined;
  const close = (): void => {
    if (open !== undefined && open.password !== '') logins.push(open);
    open = undefined;
  };
  const words = wordsOf(text);
  for (let at = 0; at < words.length; at += 1) {
    const [word = '', next = ''] = [words[at], words[at + 1]];
    if (word === 'machine' || word === 'default') {
      close();
      if (word === 'default') continue;
      open = { machine: next, login: '', password: '' };
    } else if (open !== undefined && (word === 'login' || word === 'password')) {
      open[word] = next;
    } else if (word !== 'account') {
      continue;
    }
    at += 1;
  }
  close();
  return logins;
}

/** Strips comments and macros; quotes join words. */
function wordsOf(text: string): readonly string[] {
  const kept = text
    .split(/\r?\n/)
    .filter((line) => !/^\s*#/.test(line))
    .join('\n')
    .replace(/(^|\n)\s*macdef[\s\S]*?(?=\n\s*\n|$)/g, '\n');
  return [...kept.matchAll(/"((?:\\.|[^"\\])*)"|(\S+)/g)].map(
    ([, quoted, plain]) => plain ?? (quoted ?? '').replace(/\\(.)/g, '$1'),
  );
}

/** Adds the login of the index's host, unless its own configuration has one. */
export async function withNetrc(index: Index, { env, home, read }: HostFiles): Promise<Index> {
  if (index.authorization !== undefined) return index;
  const named = env['NETRC'];
  const paths = named ? [named] : [join(home, '.netrc'), join(home, '_netrc')];
  for (const path of paths) {
    const text = await read(path);
    if (text === undefined) continue;
    const { hostname } = new URL(index.baseUrl);
    return withLogin(index, parseNetrc(text), ({ machine }) => machine === hostname);
  }
  return index;
}

export function withLogin(index: Index, logins: readonly Login[], isOf: (login: Login) => boolean): Index {
  const found = index.authorization === undefined ? logins.find(isOf) : undefined;
  if (found === undefined) return index;
  return { ...index, authorization: basic(`${found.login}:${found.password}`) };
}

export const basic = (pair: string): string => `Basic ${Buffer.from(pair).toString('base64')}`;
