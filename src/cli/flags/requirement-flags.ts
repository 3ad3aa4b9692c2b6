/** Python packages of a new sandbox: `--with`, `--requirements`, and the metadata of the script itself. */
import { execFile } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { RequirementsError } from '../../artifacts/requirements/errors.ts';
import { parseRequirements, splitRequirements } from '../../artifacts/requirements/requirement.ts';
import type { ScriptMetadata } from '../../artifacts/requirements/script-metadata.ts';
import { errorCode } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import { UsageError } from '../failure.ts';
import type { BuildFlags, ImageFlags } from './image-flag.ts';

export interface RequirementFlags extends ImageFlags, BuildFlags {
  readonly with?: readonly string[];
  /** False with `--no-requirements`: what the script and its project name is not installed. */
  readonly requirements?: readonly string[] | false;
}

/** What may name requirements of its own. */
interface Program {
  readonly code: string;
  /** Directory; null: a script alone. */
  readonly project: string | null;
  /** Of a script whose project lies around it, if it has one; null: it has none. */
  readonly path?: string | null;
}

/** A lock of thousands of packages, with their hashes. */
const FILE_BYTES_MAX = 4 * MIB;
const PROJECT_FILE = 'pyproject.toml';
/** A project of this machine, as pip tells it from the name of a package. */
const LOCAL = /^(?:\.{0,2}\/|\.{1,2}(?:\[|$))/;
const WITH_EXTRAS = /^(.+)\[([\w.,\s-]+)\]$/;
const UV_MS_MAX = 60_000;

/**
 * The requirements of all sources, parsed and sorted: of the flags; of a script's inline metadata (PEP 723); of the
 * pyproject.toml of a project that is run.
 * @throws UsageError, RequirementsError
 */
export async function requirementsOf(
  flags: RequirementFlags,
  program: Program | null = null,
): Promise<readonly string[]> {
  // The Python of an image is not known here: pip reports what does not fit.
  const hasImage = flags.image !== undefined || flags.build !== undefined;
  const choose = hasImage ? anyPython : fitting;
  const wanted: string[] = [];
  for (const one of (flags.with ?? []).flatMap(splitRequirements)) {
    if (LOCAL.test(one)) wanted.push(...(await requirementsAt(one, choose)));
    else wanted.push(one);
  }
  if (flags.requirements === false) return parseRequirements(wanted);
  for (const path of flags.requirements ?? []) wanted.push(...(await requirementsAt(path, choose)));
  if (program !== null) wanted.push(...(await ownRequirements(program, choose)));
  return parseRequirements(wanted);
}

type Choose = (metadata: ScriptMetadata) => Promise<readonly string[]>;

async function ownRequirements({ code, project, path = null }: Program, choose: Choose): Promise<readonly string[]> {
  const own = await inlineRequirements(code, choose);
  if (project !== null) {
    const file = join(project, PROJECT_FILE);
    return (await isFile(file)) ? [...(own ?? []), ...(await requirementsAt(file, choose))] : (own ?? []);
  }
  // As uv does: a script with metadata of its own stands for itself.
  if (own !== null || path === null) return own ?? [];
  const file = await projectFileAround(path);
  if (file === null) return [];
  try {
    return await requirementsAt(file, choose);
  } catch (error) {
    const without = `run --no-requirements ignores ${relative('', file)}`;
    if (error instanceof UsageError) throw new UsageError(error.message, orElse(error.remedy, without));
    if (!(error instanceof RequirementsError)) throw error;
    const { code: why, message, cause, remedy } = error;
    throw new RequirementsError(why, message, { cause, remedy: orElse(remedy, without) });
  }
}

const orElse = (remedy: string | undefined, other: string): string =>
  remedy === undefined ? other : `${remedy}; ${other}`;

/** The pyproject.toml beside the script or above it, up to the current directory. */
async function projectFileAround(path: string): Promise<string | null> {
  const here = process.cwd();
  let dir = dirname(resolve(path));
  while (true) {
    const file = join(dir, PROJECT_FILE);
    if (await isFile(file)) return file;
    if (!dir.startsWith(`${here}/`)) return null;
    dir = dirname(dir);
  }
}

/** @returns null: the script has no metadata */
async function inlineRequirements(code: string, choose: Choose): Promise<readonly string[] | null> {
  // Most scripts have none, and start faster without a parser.
  if (!code.includes('# /// script')) return null;
  const { scriptMetadata } = await import('../../artifacts/requirements/script-metadata.ts');
  const metadata = scriptMetadata(code);
  return metadata === null ? null : await choose(metadata);
}

/** A requirements file, a pyproject.toml, or the directory of one or the other; a project also with extras, `.[dev]`. */
async function requirementsAt(named: string, choose: Choose): Promise<readonly string[]> {
  const [, path = named, listed = ''] = WITH_EXTRAS.exec(named) ?? [];
  const extras = listed
    .split(',')
    .map((one) => one.trim())
    .filter((one) => one !== '');
  const file = (await isDirectory(path)) ? await fileIn(path) : path;
  if (!file.endsWith('.toml')) {
    if (extras.length === 0) return await linesOf(file, readNamed);
    throw new UsageError(`${file} has no extras`, 'name a directory with pyproject.toml');
  }
  const { projectMetadata } = await import('../../artifacts/requirements/project.ts');
  const metadata = projectMetadata(await readText(file), extras);
  const options = extras.flatMap((one) => [metadata.groups.includes(one) ? '--group' : '--extra', one]);
  const locked = await lockedBy(join(dirname(file), 'uv.lock'), options);
  const required = await choose(metadata);
  return locked ?? required;
}

async function fitting({ dependencies, requiresPython }: ScriptMetadata): Promise<readonly string[]> {
  if (requiresPython === null) return dependencies;
  const { GUEST_PYTHON, requirePython } = await import('../../artifacts/requirements/python.ts');
  requirePython(GUEST_PYTHON, requiresPython);
  return dependencies;
}

async function anyPython({ dependencies }: ScriptMetadata): Promise<readonly string[]> {
  return dependencies;
}

async function fileIn(dir: string): Promise<string> {
  for (const name of [PROJECT_FILE, 'requirements.txt']) {
    const path = join(dir, name);
    if (await isFile(path)) return path;
  }
  throw new UsageError(`${dir} has neither pyproject.toml nor requirements.txt`, 'name the file with the requirements');
}

/**
 * The versions and hashes of a lock file, by the tool that writes it.
 * @param options of uv that choose extras and groups
 * @returns null: there is no lock file
 */
async function lockedBy(lock: string, options: readonly string[]): Promise<readonly string[] | null> {
  if (!(await isFile(lock))) return null;
  const args = ['export', '--frozen', '--no-dev', '--no-emit-project', '--no-header', '--no-annotate', ...options];
  try {
    const { stdout } = await promisify(execFile)('uv', [...args, '--quiet'], {
      cwd: dirname(resolve(lock)),
      timeout: UV_MS_MAX,
      maxBuffer: FILE_BYTES_MAX,
    });
    return await linesOf(lock, async () => ({ path: lock, text: stdout }));
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') {
      throw new UsageError(`uv could not read ${lock}`, 'try: uv export --frozen');
    }
    throw new UsageError(
      `${lock} can be read only by uv, which is not installed`,
      'install it (pip install uv), or name a file made by: uv export -o requirements.txt',
    );
  }
}

/** Loaded only here: most scripts need no packages. */
async function linesOf(path: string, read: typeof readNamed): Promise<readonly string[]> {
  const { readRequirementsFile } = await import('../../artifacts/requirements/file.ts');
  return await readRequirementsFile(path, read);
}

async function readNamed(path: string, from: string | null): Promise<{ path: string; text: string }> {
  const named = from === null ? path : resolve(dirname(from), path);
  return { path: named, text: await readText(named) };
}

async function readText(path: string): Promise<string> {
  try {
    // May be a pipe or a device, which tells no size. `end` is included.
    const bytes = await buffer(createReadStream(path, { end: FILE_BYTES_MAX }));
    if (bytes.length <= FILE_BYTES_MAX) return bytes.toString('utf8');
    throw new UsageError(`${path} is too large for requirements`);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    const why = errorCode(error) === 'ENOENT' ? 'does not exist' : `can't be read: ${error}`;
    throw new UsageError(`the requirements file ${path} ${why}`, 'check the path');
  }
}

/** Whether the path leads to a directory of this machine. */
export async function isDirectory(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => null);
  return found?.isDirectory() === true;
}

/** For files that the user did not name: reading a pipe could wait for ever. */
export async function isFile(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => null);
  return found?.isFile() === true;
}
