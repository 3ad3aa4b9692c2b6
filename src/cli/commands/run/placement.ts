/**
 * Where a script and its copied files are in the guest. Copies go to the home, which stands for the working directory
 * here; the script is beside them, or in its place in a copied directory. A project is a copy without what it ignores,
 * unless another copy includes it:
 *
 *     run main.py --copy helper.py --copy data    ~/main.py  ~/helper.py  ~/data/…    starts in ~
 *     run src/main.py --copy .                    ~/src/main.py  ~/data/…             starts in ~
 *     run src/main.py --copy .:/srv               /srv/src/main.py  /srv/data/…       starts in /srv
 *     run app                                     ~/app/__main__.py  ~/app/…          starts in ~
 *     run -m app.tool                             ~/app/tool.py  ~/…                  starts in ~
 *     run --project app app/main.py               ~/app/main.py  ~/app/…              starts in ~/app
 *
 * So imports and relative paths work as they do with `python3` here.
 */
import { realpath, stat } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import type { SentProject } from '../../../artifacts/transfer/project.ts';
import { fileOptions } from '../../../artifacts/transfer/transfer.ts';
import { errorCode } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Guest, PythonSpec } from '../../../machine/guest/link.ts';
import type { Cli } from '../../cli.ts';
import { UsageError } from '../../failure.ts';
import { asUsageErrors, type Copied, copyForRun, resultOptions } from '../../transfer/copies.ts';
import type { RunFlags } from './job.ts';
import type { Script } from './script.ts';

export interface Placement {
  readonly copied: readonly Copied[];
  /** The copy of `--project`; null: none. */
  readonly project: SentProject | null;
  readonly spec: Pick<PythonSpec, 'script' | 'cwd'>;
}

type PlaceFlags = Pick<RunFlags, 'copy' | 'user' | 'workdir' | 'project'>;

/** Copies the files for a program of an image. It starts where the image says, or in the copy of `--project`. */
export async function placeCopies(
  cli: Cli,
  guest: Guest,
  flags: PlaceFlags,
): Promise<Pick<Placement, 'copied' | 'project'> & { readonly cwd: string | null }> {
  const { project: source } = flags;
  const project = source === undefined ? null : await send(cli, guest, flags, source, inHome(source));
  const copied = [...(project === null ? [] : [project]), ...(await copyFiles(cli, guest, flags))];
  return { copied, project, cwd: flags.workdir ?? project?.to ?? null };
}

/** Copies the files, the project, then the script if it is not among them. */
export async function placeFiles(cli: Cli, guest: Guest, script: Script, flags: PlaceFlags): Promise<Placement> {
  const { project: sent, ...placedCopies } = await placeCopies(cli, guest, flags);
  const copied = [...placedCopies.copied];
  const { code, filename, path, project } = script;
  if (project !== null && placeOf(copied, await realpath(project)) === null) {
    const isHere = (await realpath(project)) === process.cwd();
    copied.push(await send(cli, guest, flags, project, isHere ? '~' : inHome(project)));
  }
  const cwd = placedCopies.cwd ?? placeOf(copied, process.cwd());
  const start = cwd === null ? {} : { cwd };
  const placed = { copied, project: sent };
  if (filename === '<string>') return { ...placed, spec: { script: { code }, ...start } };
  if (copied.length === 0) {
    return { ...placed, spec: { script: { code, name: filename }, ...start } };
  }
  const real = path === null ? null : await realpath(path);
  const place = real === null ? null : placeOf(copied, real);
  // A project may ignore its script.
  const ignored = real === null || place !== null ? null : ignoredPlaceOf(copied, real);
  const at =
    ignored === null
      ? await writeScript(guest, place, { code, filename }, flags.user)
      : (await guest.files.write(ignored, code, fileOptions(flags))).path;
  return { ...placed, spec: { script: { path: at }, ...start } };
}

async function send(cli: Cli, guest: Guest, { user }: PlaceFlags, source: string, to: string): Promise<SentProject> {
  const { sendProject } = await import('../../../artifacts/transfer/project.ts');
  return await asUsageErrors(() => sendProject(guest, source, to, resultOptions(cli, user)));
}

const inHome = (directory: string): string => `~/${basename(resolve(directory))}`;

/** Checked before a sandbox starts. @throws UsageError */
export async function requireProject(directory: string): Promise<void> {
  const { requireSource } = await import('../../../artifacts/transfer/tree-here.ts');
  await asUsageErrors(() => requireSource(directory));
  if (!(await stat(directory)).isDirectory()) {
    throw new UsageError(`--project ${directory}: not a directory`, 'name a directory');
  }
  if (basename(resolve(directory)) === '') {
    throw new UsageError('--project /: this directory is too large to copy', 'name another one');
  }
}

export async function copyFiles(
  cli: Cli,
  guest: Guest,
  { copy, user }: Pick<RunFlags, 'copy' | 'user'>,
): Promise<readonly Copied[]> {
  const copied: Copied[] = [];
  for (const spec of copy) copied.push(await copyForRun(cli, guest, spec, user));
  return copied;
}

/** Returns the absolute path of the script in the guest. @param placed null: not among the copied files */
async function writeScript(
  guest: Guest,
  placed: string | null,
  { code, filename }: { readonly code: string; readonly filename: string },
  user: string | undefined,
): Promise<string> {
  const as = user === undefined ? {} : { user };
  if (placed !== null) return (await guest.files.stat(placed, as)).path;
  if (await isThere(guest, filename, as)) {
    throw new UsageError(
      `a copied file has the name of the script, ${filename}`,
      'rename one of them, or copy to another TARGET',
    );
  }
  return (await guest.files.write(filename, code, as)).path;
}

async function isThere(guest: Guest, path: string, as: { user?: string }): Promise<boolean> {
  try {
    await guest.files.stat(path, as);
    return true;
  } catch (error) {
    if (errorCode(error) === 'not_found') return false;
    throw error;
  }
}

/** Path in the guest of a path here, if a copy includes it. */
export function placeOf(copied: readonly Copied[], path: string): string | null {
  // The last copy wins, as it does in the guest.
  for (const { from, to, contents } of copied.toReversed()) {
    const below = relative(from, path);
    if (below === '') return to;
    if (isAbsolute(below) || below.split('/')[0] === '..') continue;
    if (contents === undefined || contents.has(below)) return join(to, below);
  }
  return null;
}

/** Where an ignored path of a project would be. */
function ignoredPlaceOf(copied: readonly Copied[], path: string): string | null {
  return placeOf(
    copied.map(({ from, to }) => ({ from, to })),
    path,
  );
}

const NO_FILE = /^FileNotFoundError: \[Errno 2\] No such file or directory: '([^'\n/][^'\n]{0,199})'/gm;

/** A hostile script can print any name: none that is hidden, such as `.ssh`, or that a shell would read. */
const OFFERED = /^(?:\.\.\/)*\w[\w./-]*$/;

/**
 * Explains a script that misses a file of this machine; null: it does not seem to.
 * @param stderr the last output of the script: untrusted
 */
export async function missingFileHint(
  { path, filename }: Script,
  copied: readonly Copied[],
  stderr: string,
): Promise<string | null> {
  const dir = path === null ? process.cwd() : dirname(path);
  const { missingModule } = await import('../../output/failure-hint.ts');
  const module = missingModule(stderr);
  const file = [...stderr.matchAll(NO_FILE)].at(-1)?.[1]?.replace(/^(\.\/)+/, '');
  const candidates = [
    ...(module === undefined ? [] : [join(dir, `${module}.py`), join(dir, module)]),
    // The file itself, too: a project that is there may ignore it.
    ...(file === undefined || /(^|\/)(\.|$)/.test(file) ? [] : [resolve(file.split('/')[0] ?? ''), resolve(file)]),
  ];
  for (const candidate of candidates) {
    if (!(await isHere(candidate)) || placeOf(copied, await realpath(candidate)) !== null) continue;
    const name = relative(process.cwd(), candidate);
    const target = ignoredPlaceOf(copied, await realpath(candidate))?.replace(/^~\//, '') ?? null;
    const copy = target === null || target === basename(name) ? name : `${name}:${target}`;
    if (!OFFERED.test(name) || (target !== null && !OFFERED.test(target))) continue;
    const what = path === null ? name : `${name}, which ${filename} needs,`;
    return `${what} is on this machine but not in the guest; add: --copy ${copy}`;
  }
  return null;
}

/** The requirements.txt beside the script or in its project, as an option can name it; null: there is none. */
export async function requirementsBeside({ path, project }: Script): Promise<string | null> {
  const dir = project ?? (path === null ? process.cwd() : dirname(path));
  const name = relative(process.cwd(), join(dir, 'requirements.txt'));
  return OFFERED.test(name) && (await isHere(name)) ? name : null;
}

async function isHere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    ignore(error, 'not a file of this machine');
    return false;
  }
}
