/** The daemons that `neurovisor login` has saved, with their keys: `contexts.json` in the home, for its owner alone. */
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Config, ConfigError, DAEMON_URL } from '../../base/config.ts';
import { describeError } from '../../base/errors.ts';
import { resolveHome } from '../../base/home.ts';
import { readPrivate } from '../../base/key-file.ts';
import { KIB } from '../../base/units.ts';
import { UsageError } from '../failure.ts';

export interface Context {
  readonly url: string;
  /** API key: never printed, and sent only to `url`. */
  readonly key: string;
  /** Absolute path of a PEM file; null: as without a context. */
  readonly caFile: string | null;
}

export interface Contexts {
  /** Null: the daemon of this home. */
  readonly current: string | null;
  readonly saved: ReadonlyMap<string, Context>;
}

export const CONTEXTS_FILE = 'contexts.json';
/** Name of the daemon of this home, which needs no login. */
export const LOCAL = 'local';
const NAME = /^[a-z0-9][a-z0-9._-]{0,62}$/;
const KEY = /^[\x21-\x7e]{1,1024}$/;
const FILE_BYTES_MAX = 256 * KIB;

/** @throws UsageError */
export function checkName(name: string): string {
  if (NAME.test(name) && name !== LOCAL) return name;
  const remedy = 'use --name with 1 to 63 lower-case letters, digits, dots, dashes and underscores';
  throw new UsageError(`invalid context name "${name}"`, remedy);
}

/** @throws UsageError */
export function checkKey(text: string): string {
  if (KEY.test(text)) return text;
  throw new UsageError('missing or invalid API key', 'pipe it: neurovisor login URL < FILE');
}

/** @throws ConfigError: another user can read the file, or it is damaged */
export function readContexts(homeDir: string): Contexts {
  const path = join(homeDir, CONTEXTS_FILE);
  const bytes = readPrivate(path, FILE_BYTES_MAX, unusable);
  if (bytes === undefined) return { current: null, saved: new Map() };
  try {
    return parse(bytes.toString('utf8'));
  } catch (error) {
    throw unusable(path, error, `Remove ${path}, and log in again: neurovisor login URL`);
  }
}

function unusable(path: string, cause: unknown, remedy = 'check its permissions'): ConfigError {
  return new ConfigError('config_invalid', `${path}: ${describeError(cause)}`, { remedy });
}

/** @throws Error */
function parse(text: string): Contexts {
  const { current, contexts } = JSON.parse(text) as { current?: unknown; contexts?: object };
  const saved = new Map<string, Context>();
  for (const [name, one] of Object.entries(contexts ?? {})) {
    const { url, key, caFile } = one as Record<keyof Context, unknown>;
    const isText =
      typeof url === 'string' && typeof key === 'string' && (caFile === null || typeof caFile === 'string');
    if (!isText || !NAME.test(name) || !DAEMON_URL.test(url) || !KEY.test(key)) throw new Error('it is damaged');
    saved.set(name, { url, key, caFile });
  }
  if (current === null) return { current, saved };
  if (typeof current !== 'string' || !saved.has(current)) throw new Error('it is damaged');
  return { current, saved };
}

export async function saveContexts(homeDir: string, { current, saved }: Contexts): Promise<void> {
  await mkdir(homeDir, { recursive: true, mode: 0o700 });
  const text = JSON.stringify({ current, contexts: Object.fromEntries(saved) }, null, 2);
  if (Buffer.byteLength(text) > FILE_BYTES_MAX) throw new UsageError('too many contexts', 'use neurovisor context rm');
  const path = join(homeDir, CONTEXTS_FILE);
  const draft = `${path}.${process.pid}`;
  await writeFile(draft, `${text}\n`, { mode: 0o600, flush: true });
  await rename(draft, path);
}

/** The configuration with the current context, if there is one and NEUROVISOR_URL names no daemon. @throws ConfigError */
export function withContext(config: Config): Config {
  if (config.daemonUrl !== null) return config;
  const { current, saved } = readContexts(resolveHome(config.home).dir);
  const context = current === null ? undefined : saved.get(current);
  return context === undefined ? config : configOf(config, current, context);
}

/** The configuration for a daemon; its key takes the place of NEUROVISOR_API_KEY. */
export const configOf = (config: Config, name: string | null, { url, key, caFile }: Context): Config => ({
  ...config,
  daemonContext: name,
  daemonUrl: url,
  daemonKey: key,
  daemonCaFile: caFile ?? config.daemonCaFile,
});
