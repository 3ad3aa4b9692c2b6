/**
 * Lock files, as entries of a package policy (`pip:NAME sha256:HEX`). Pure. The file is the user's own, so a wrong one is
 * a usage error that names the line.
 */
import { UsageError } from '../failure.ts';

const HOW = 'use a requirements.txt with --hash, uv.lock, package-lock.json or Cargo.lock';

/** @param name of the file, which tells its form. @throws UsageError */
export function lockEntries(name: string, text: string): readonly string[] {
  const entries = [...new Set(parserOf(name)(name, text))];
  if (entries.length > 0) return entries;
  throw new UsageError(`${name}: no file is locked by a digest in it`, HOW);
}

type Parser = (name: string, text: string) => string[];

function parserOf(name: string): Parser {
  if (/(?:^|\/)(?:package-lock|npm-shrinkwrap)\.json$/.test(name)) return npmLock;
  if (/(?:^|\/)Cargo\.lock$/.test(name)) return cargoLock;
  if (/(?:^|\/)uv\.lock$/.test(name)) return uvLock;
  return requirements;
}

/** Lines with `NAME==VERSION --hash=sha256:HEX …`; a backslash continues one. */
function requirements(file: string, text: string): string[] {
  const lines = text.replace(/\\\r?\n/g, ' ').split(/\r?\n/);
  return lines.flatMap((line) => {
    const content = line.replace(/(?:^|\s)#.*$/, '').trim();
    if (content === '' || content.startsWith('-')) return [];
    const [, name = ''] = /^([A-Za-z0-9][A-Za-z0-9._-]*)/.exec(content) ?? [];
    const digests = [...content.matchAll(/--hash=sha256:([0-9a-f]{64})/g)];
    if (name === '' || digests.length === 0) {
      throw new UsageError(`${file}: "${content.slice(0, 80)}" has no --hash=sha256:…`, HOW);
    }
    return digests.map(([, hex = '']) => `pip:${name} sha256:${hex}`);
  });
}

function npmLock(file: string, text: string): string[] {
  return Object.entries(npmPackages(file, text)).flatMap(([path, { name, integrity = '' }]) => {
    const [, base64] = /(?:^|\s)sha512-([A-Za-z0-9+/]{86}==)/.exec(integrity) ?? [];
    // An alias has the real name in `name`.
    const real = name ?? path.split('node_modules/').at(-1);
    if (base64 === undefined || real === undefined) return [];
    return [`npm:${real} sha512:${Buffer.from(base64, 'base64').toString('hex')}`];
  });
}

interface NpmPackage {
  readonly name?: string;
  readonly integrity?: string;
}

/** Checked without zod, which every `run` and `create` would load. */
function npmPackages(file: string, text: string): Readonly<Record<string, NpmPackage>> {
  const lock = jsonOf(file, text);
  const packages = isRecord(lock) ? lock['packages'] : undefined;
  if (isRecord(packages) && Object.values(packages).every(isNpmPackage)) {
    return packages as Record<string, NpmPackage>;
  }
  throw new UsageError(`${file}: it has no packages of npm 7 or newer`, 'run npm install again');
}

function isNpmPackage(value: unknown): value is NpmPackage {
  if (!isRecord(value)) return false;
  return [value['name'], value['integrity']].every((text) => ['string', 'undefined'].includes(typeof text));
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function jsonOf(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new UsageError(`${file}: invalid JSON`, HOW);
  }
}

function cargoLock(_file: string, text: string): string[] {
  return tablesOf(text).flatMap(({ name, body }) => {
    const [, hex] = /^checksum = "([0-9a-f]{64})"$/m.exec(body) ?? [];
    return hex === undefined ? [] : [`cargo:${name} sha256:${hex}`];
  });
}

function uvLock(_file: string, text: string): string[] {
  return tablesOf(text).flatMap(({ name, body }) =>
    [...body.matchAll(/\bhash = "sha256:([0-9a-f]{64})"/g)].map(([, hex = '']) => `pip:${name} sha256:${hex}`),
  );
}

/** The `[[package]]` tables that cargo and uv write. */
function tablesOf(text: string): { readonly name: string; readonly body: string }[] {
  return text.split(/^\[\[package\]\]$/m).flatMap((body) => {
    const [, name] = /^name = "([A-Za-z0-9][A-Za-z0-9._-]*)"$/m.exec(body) ?? [];
    return name === undefined ? [] : [{ name, body }];
  });
}
