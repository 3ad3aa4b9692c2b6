/**
 * Makes texts fit for a public issue: without names of this user and host, paths, addresses and URLs. Pure, except
 * `namesHere`. Only our own texts may pass: no pattern finds every secret in the output of other programs.
 */
import { hostname, userInfo } from 'node:os';
import { basename, resolve } from 'node:path';
import { CodedError, errorCode } from '../../base/errors.ts';
import { tryOr } from '../../base/ignore.ts';
import { plain } from '../../base/text/plain.ts';

const TEXT_MAX = 300;
/** Shorter names are parts of many words. */
const CHARACTERS_MIN = 3;
/** Names that identify no one. */
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

/** Texts that no report may contain, the longest first. */
export interface PrivateTexts {
  /** Names of this user and host: `namesHere`. */
  readonly names: readonly string[];
  /** Configured paths, which may have spaces or no slash: `pathForms`. */
  readonly paths: readonly string[];
}

export function publicText(text: string, { names, paths }: PrivateTexts): string {
  const bare = plain(withoutPaths(text, paths))
    .replaceAll(URLS, '<url>')
    .replaceAll(EMAILS, '<address>')
    .replaceAll(PATHS, (path) => (KNOWN_PATHS.test(path) ? path : '<path>'))
    .replaceAll(IPV4, '<address>')
    .replaceAll(IPV6, '<address>');
  return withoutNames(bare, names).slice(0, TEXT_MAX);
}

/** Replaces each configured path by one that the pattern finds, including what follows it. */
function withoutPaths(text: string, paths: readonly string[]): string {
  return paths.reduce((rest, path) => rest.replaceAll(path, '/path'), text);
}

function withoutNames(text: string, names: readonly string[]): string {
  return names.reduce((rest, name) => {
    const literal = name.replaceAll(/[^\w]/g, String.raw`\$&`);
    return rest.replaceAll(new RegExp(literal, 'gi'), '<name>');
  }, text);
}

/** The codes of an error and its causes, with the messages of our own errors but not of other programs. */
export function publicError(error: unknown, secrets: PrivateTexts): string {
  const parts: string[] = [];
  let current = error;
  while (current instanceof Error && parts.length < CAUSES_MAX) {
    if (current instanceof CodedError) parts.push(`${current.code}: ${current.message}`);
    else parts.push(errorCode(current) ?? 'another error');
    current = current.cause;
  }
  return publicText(parts.join(': '), secrets);
}

/** The configured paths, as given and as absolute paths. */
export function pathForms(configured: readonly string[]): string[] {
  return longestFirst(configured.flatMap((path) => [path, resolve(path)]));
}

/** Names of the user and the host, which no report may contain; the longest first. */
export function namesHere(env: Readonly<Record<string, string | undefined>>): string[] {
  const host = hostname();
  const given = ['USER', 'LOGNAME', 'SUDO_USER', 'HOSTNAME', 'HOST'].map((name) => env[name] ?? '');
  const names = [...given, host, host.split('.')[0] ?? '', ...userNames(), basename(env['HOME'] ?? '')];
  return longestFirst(names.filter((name) => !COMMON_NAMES.has(name)));
}

function longestFirst(texts: readonly string[]): string[] {
  return [...new Set(texts)]
    .filter((text) => text.length >= CHARACTERS_MIN)
    .sort((one, other) => other.length - one.length);
}

function userNames(): string[] {
  return tryOr([], 'the user has no entry in the password database', () => {
    const { username, homedir } = userInfo();
    return [username, basename(homedir)];
  });
}
