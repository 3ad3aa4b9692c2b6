/** Reads `models.toml` with the keys that it names (I/O). */
import { closeSync, constants, fstatSync, openSync, readFileSync, type Stats } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import type { Config } from '../../../base/config.ts';
import { errorCode } from '../../../base/errors.ts';
import { resolveHome } from '../../../base/home.ts';
import { MIB } from '../../../base/units.ts';
import { BridgeError } from '../../../inference/bridge/errors.ts';
import {
  type FileUpstream,
  type KeySource,
  type ModelsFile,
  parseModelsFile,
} from '../../../inference/bridge/routing/models-file.ts';
import type { UpstreamTarget } from '../../../inference/bridge/upstream/address.ts';

type Env = Readonly<Record<string, string | undefined>>;

export interface ConfiguredServer extends FileUpstream {
  /** Includes the authority, and the key unless a program prints it. */
  readonly target: UpstreamTarget;
}

export interface ConfiguredModels extends Omit<ModelsFile, 'upstreams'> {
  readonly path: string;
  /** Files it was read from: itself, and files of keys and certificates. */
  readonly files: readonly string[];
  readonly upstreams: readonly ConfiguredServer[];
}

/**
 * The file of NEUROVISOR_MODELS, or else `models.toml` in the home; `null` if there is none, or NEUROVISOR_UPSTREAM
 * names another server.
 * @param env for keys
 * @throws BridgeError `models_file_invalid`
 */
export function readModelsFile(config: Config, env: Env = process.env): ConfiguredModels | null {
  if (config.upstream !== 'auto') return null;
  const usual = join(resolveHome(config.home).dir, 'models.toml');
  const path = config.modelsFile === null ? usual : resolve(config.modelsFile);
  const text = readText(path, 'it', (stats) => checkOwn('it', path, stats));
  if (text === null) {
    if (config.modelsFile === null) return null;
    throw invalid(`${path} does not exist`, 'correct or unset NEUROVISOR_MODELS');
  }
  const file = parseModelsFile(text);
  const dir = dirname(path);
  const upstreams = file.upstreams.map((upstream) => withSecrets(upstream, dir, env));
  const secrets = file.upstreams.flatMap(({ key, caFile }) => [
    ...(key !== null && 'file' in key ? [resolve(dir, key.file)] : []),
    ...(caFile === null ? [] : [resolve(dir, caFile)]),
  ]);
  return { ...file, path, files: [path, ...secrets], upstreams };
}

function withSecrets(upstream: FileUpstream, dir: string, env: Env): ConfiguredServer {
  const { name, key, caFile, engine } = upstream;
  const model = engine?.kind === 'file' ? { ...engine, path: resolve(dir, engine.path) } : engine;
  const apiKey = key === null || 'command' in key ? {} : { apiKey: keyOf(name, key, dir, env) };
  const ca = caFile === null ? {} : { authority: authorityOf(name, resolve(dir, caFile)) };
  return { ...upstream, engine: model, target: { ...upstream.target, ...apiKey, ...ca } };
}

const KEY = /^[\x21-\x7e]{1,4096}$/;

export const isKey = (text: string): boolean => KEY.test(text);

function keyOf(
  name: string,
  key: Exclude<KeySource, { readonly command: readonly string[] }>,
  dir: string,
  env: Env,
): string {
  const where = `key of upstreams.${name}`;
  if ('env' in key) {
    const value = env[key.env] ?? '';
    if (KEY.test(value)) return value;
    const why = value === '' ? 'is not set' : 'has other characters than a key';
    throw invalid(`${where}: the variable ${key.env} ${why}`, `set ${key.env} for this process`);
  }
  const path = resolve(dir, key.file);
  const text = readText(path, where, (stats) => checkPrivate(where, path, stats));
  if (text === null) throw invalid(`${where}: ${path} does not exist`, 'correct the path');
  if (KEY.test(text.trim())) return text.trim();
  throw invalid(`${where}: ${path} does not hold one key`, 'write the key alone into the file');
}

const OTHERS = 0o077;
const OTHERS_WRITE = 0o022;
const ROOT = 0;

/** Another user who can change the file could send the keys elsewhere. */
function checkOwn(where: string, path: string, stats: Stats): void {
  checkOwner(where, path, stats);
  if ((stats.mode & OTHERS_WRITE) === 0) return;
  throw invalid(`${where}: other users may change ${path}`, `run: chmod go-w ${path}`);
}

/** A key that other users can read or replace is no secret. */
function checkPrivate(where: string, path: string, stats: Stats): void {
  checkOwner(where, path, stats);
  if ((stats.mode & OTHERS) === 0) return;
  throw invalid(`${where}: other users may access ${path}`, `run: chmod 600 ${path}`);
}

function checkOwner(where: string, path: string, { uid }: Stats): void {
  if (uid === ROOT || uid === process.geteuid?.()) return;
  throw invalid(`${where}: user ${uid} owns ${path}`, 'make it your own file');
}

function authorityOf(name: string, path: string): string {
  const where = `ca_file of upstreams.${name}`;
  const text = readText(path, where);
  if (text?.includes('-----BEGIN CERTIFICATE-----') === true) return text;
  throw invalid(`${where}: ${path} has no certificate`, 'name a PEM file');
}

const FILE_BYTES_MAX = 4 * MIB;

/** @param check checks the opened file, not another one that takes its name. @returns `null` if it does not exist */
function readText(path: string, where: string, check?: (stats: Stats) => void): string | null {
  let file: number | undefined;
  try {
    // Opening a pipe would wait for a writer.
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const stats = fstatSync(file);
    if (!stats.isFile()) throw invalid(`${where}: ${path} is not a regular file`, 'correct the path');
    if (stats.size > FILE_BYTES_MAX) {
      throw invalid(`${where}: ${path} is larger than ${FILE_BYTES_MAX / MIB} MiB`, 'correct the path');
    }
    check?.(stats);
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    if (errorCode(error) === 'ENOENT') return null;
    throw invalid(`${where}: ${path} can't be read`, 'correct the path or its permissions', error);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

function invalid(why: string, remedy: string, cause?: unknown): BridgeError {
  return new BridgeError('models_file_invalid', `models.toml: ${why}`, {
    ...(cause === undefined ? {} : { cause }),
    remedy,
  });
}
