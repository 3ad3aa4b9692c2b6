/**
 * Makes texts fit for a public issue: without names of this user and host, paths, addresses and URLs. Pure, except
 * `namesHere`. Only our own texts may pass it: no pattern finds every secret in the output of other programs.
 */
import { hostname, userInfo } from 'node:os';
import { basename } from 'node:path';
import { CodedError, errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import { plain } from '../base/plain.ts';

const TEXT_MAX = 300;
/** Shorter names are parts of many words. */
const NAME_CHARACTERS_MIN = 3;
/** Says nothing about anyone. */
const COMMON_NAMES = new Set(['root', 'localhost']);
const CAUSES_MAX = 8;

const URLS = /\b[a-z][a-z0-9+.-]*:\/\/\S+/gi;
const EMAILS = /[\w.+-]+@[\w-]+(\.[\w-]+)+/g;
const IPV4 = /\b\d{1,3}(\.\d{1,3}){3}\b/g;
const IPV6 = /(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])/gi;
const PATHS = /(?<![\w.<])~?\/[^\s"'`,;:()]+/g;
/** The same on every host; names of control groups are those of its services. */
const KNOWN_PATHS =
  /^\/dev\/(kvm|net\/tun|vhost-[a-z]+)$|^\/sys\/fs\/cgroup$|^\/(proc\/sys|sys\/(module|kernel))(\/[a-z0-9_.-]+)*$/;

/** @param names of this user and host: `namesHere` */
export function publicText(text: string, names: readonly string[]): string {
  const bare = plain(text)
    .replaceAll(URLS, '<url>')
    .replaceAll(EMAILS, '<address>')
    .replaceAll(PATHS, (path) => (KNOWN_PATHS.test(path) ? path : '<path>'))
    .replaceAll(IPV4, '<address>')
    .replaceAll(IPV6, '<address>');
  return withoutNames(bare, names).slice(0, TEXT_MAX);
}

function withoutNames(text: string, names: readonly string[]): string {
  return names.reduce((rest, name) => {
    const literal = name.replaceAll(/[^\w]/g, String.raw`\$&`);
    return rest.replaceAll(new RegExp(literal, 'gi'), '<name>');
  }, text);
}

/**
 * The codes of an error and its causes, with the messages of our own errors; those of other programs are left out.
 * @param names as above
 */
export function publicError(error: unknown, names: readonly string[]): string {
  const parts: string[] = [];
  let current = error;
  while (current instanceof Error && parts.length < CAUSES_MAX) {
    if (current instanceof CodedError) parts.push(`${current.code}: ${current.message}`);
    else parts.push(errorCode(current) ?? 'another error');
    current = current.cause;
  }
  return publicText(parts.join(': '), names);
}

/** Names of the user and the host, which no report may contain; the longest first. */
export function namesHere(env: Readonly<Record<string, string | undefined>>): string[] {
  const host = hostname();
  const given = ['USER', 'LOGNAME', 'SUDO_USER', 'HOSTNAME', 'HOST'].map((name) => env[name] ?? '');
  const names = [
    ...given,
    host,
    host.split('.')[0] ?? '',
    ...userNames(),
    basename(env['HOME'] ?? ''),
  ];
  return [...new Set(names)]
    .filter((name) => name.length >= NAME_CHARACTERS_MIN && !COMMON_NAMES.has(name))
    .sort((one, other) => other.length - one.length);
}

function userNames(): string[] {
  try {
    const { username, homedir } = userInfo();
    return [username, basename(homedir)];
  } catch (error) {
    ignore(error, 'the user has no entry in the password database');
    return [];
  }
}
