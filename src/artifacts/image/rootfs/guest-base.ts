/**
 * The slow part of the golden image, which changes rarely: Debian, Python, the wheels, all bytecode. Kept as a tar,
 * so that a new agent costs seconds, not minutes. Needs no root: in the image root owns every file regardless of its
 * builder, and the guest's own loader starts the guest's Python to compile bytecode.
 */
import { existsSync } from 'node:fs';
import { appendFile, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { together } from '../../../base/fairness/together.ts';
import { MIB } from '../../../base/units.ts';
import { ImageError } from '../errors.ts';
import type { Job, Recipe } from '../prepare.ts';
import { runTool } from '../tool.ts';
import { filesUnder, removeDirectories } from '../tree.ts';
import { digestBytes } from '../verify.ts';
import {
  aptPreferences,
  compareWithLock,
  type DebianPackage,
  type DebianPackages,
  debianPackagesSchema,
  describePackages,
  lockDifferenceSchema,
  parseDebianLock,
  withDigests,
} from './debian-lock.ts';
import { withoutSections } from './elf-debug.ts';
import { guestMirrors } from './guest-mirrors.ts';
import {
  APT_PREFERENCES,
  APT_RECORDS,
  DEBIAN_KEYRING,
  DPKG_OPTIONS,
  EMPTY_DIRS,
  ETC_FILES,
  ETC_LINES,
  ETC_LINKS,
  GUEST_CODENAME,
  GUEST_PACKAGES,
  GUEST_PYTHON,
  PYTHON_TREES,
  REMOVED_PATHS,
  SCRIPTS,
  SITE_PACKAGES,
  SOURCE_DATE_EPOCH,
  STRIPPED_PACKAGES,
  USER,
} from './recipe.ts';

export const baseDetailsSchema = z.object({
  packages: debianPackagesSchema,
  /** Differences between `packages` and `image/debian.lock`. */
  lockDifferences: z.array(lockDifferenceSchema),
  pythonPackages: z.record(z.string(), z.string()),
});
export type BaseDetails = z.infer<typeof baseDetailsSchema>;

/** Increment when the steps below change the result. */
const RECIPE_VERSION = 5;
const SPACE_BYTES = 1300 * MIB;

/** Messages of mmdebstrap at the beginning of each stage. */
const DEBIAN_STAGES: readonly string[] = [
  'running apt-get update',
  'downloading packages',
  'extracting archives',
  'installing essential packages',
  'installing remaining packages',
  'cleaning package lists',
];

/** Merges /bin into /usr from the start; otherwise a package does so later, and depends on all of Perl. */
const MERGED_USR_HOOK = '/usr/share/mmdebstrap/hooks/merged-usr';

/** A world-writable directory on a disk; /tmp may be in memory, and small. */
const SHARED_TMP_DIR = '/var/tmp';

export const BASE_TAR = 'base.tar';

interface Locks {
  readonly wheelsPath: string;
  readonly wheels: string;
  /** Packages of `debian.lock`; empty for the newest ones. */
  readonly debian: DebianPackages;
}

export async function readLocks(sourceDir: string): Promise<Locks> {
  const wheelsPath = join(sourceDir, 'image', 'requirements.lock');
  const wheels = await readFile(wheelsPath, 'utf8');
  const debian = await readFile(join(sourceDir, 'image', 'debian.lock'), 'utf8');
  return { wheelsPath, wheels, debian: parseDebianLock(debian) };
}

/** @param keepAt a path that does not exist, on the cache's file system: a build leaves its tree there */
export function guestBaseRecipe(locks: Locks, keepAt?: string): Recipe<BaseDetails> {
  const packages = Object.keys(GUEST_PACKAGES);
  const data = [DPKG_OPTIONS, ETC_FILES, ETC_LINES, ETC_LINKS, REMOVED_PATHS, SCRIPTS, STRIPPED_PACKAGES, USER];
  return {
    kind: 'guest-base',
    title: 'Install Debian and Python for the guest',
    key: digestBytes(
      `guest-base ${RECIPE_VERSION}`,
      packages.join(),
      JSON.stringify(data),
      locks.wheels,
      JSON.stringify(locks.debian),
    ),
    files: [BASE_TAR],
    spaceBytes: SPACE_BYTES,
    details: baseDetailsSchema,
    build: (job) => buildBase(job, locks, keepAt),
  };
}

async function buildBase(job: Job, locks: Locks, keepAt?: string): Promise<BaseDetails> {
  const root = join(job.scratchDir, 'root');
  const wheelsDir = join(job.scratchDir, 'wheels');
  await mkdir(root);
  const wheels = parseLock(locks.wheels);
  // The wheels need nothing of Debian: one waits for the network while the other needs a processor.
  await together(job.signal, [
    (signal) => installDebian({ ...job, signal }, root, locks.debian),
    (signal) => installWheels({ ...job, signal }, wheelsDir, locks.wheelsPath),
  ]);
  const packages = await installedPackages(root);
  const lockDifferences = compareWithLock(locks.debian, packages);
  if (lockDifferences.length > 0) {
    const { description, remedy } = describePackages({ packages, lockDifferences });
    job.log.warn(`golden image: ${description}`, { remedy });
  }
  const site = await placeIn(root, SITE_PACKAGES);
  await rm(site, { recursive: true, force: true });
  await rename(wheelsDir, site);
  await configure(root);
  await compileBytecode(job, root);
  await makeReadable(root, BUILT_PATHS, job.signal);
  await packTar(root, join(job.outDir, BASE_TAR), job.signal);
  if (keepAt !== undefined) await rename(root, keepAt);
  return { packages, lockDifferences, pythonPackages: Object.fromEntries(wheels) };
}

async function installedPackages(root: string): Promise<Record<string, DebianPackage>> {
  const status = await readFile(join(root, 'var/lib/dpkg/status'), 'utf8');
  return withDigests(parseDpkgStatus(status), await readFile(join(root, APT_RECORDS), 'utf8'));
}

async function installDebian(job: Job, root: string, lock: DebianPackages): Promise<void> {
  const isRoot = process.geteuid?.() === 0;
  // Only root can create the tree itself; another user's belongs to many users of a namespace.
  const target = isRoot ? root : join(job.scratchDir, 'debian.tar');
  const mirrors = await guestMirrors(job.scratchDir);
  const args = [
    '--variant=minbase',
    ...(existsSync(MERGED_USR_HOOK) ? [`--hook-dir=${MERGED_USR_HOOK}`] : []),
    `--include=${Object.keys(GUEST_PACKAGES).join(',')}`,
    `--setup-hook=${writeHook(APT_PREFERENCES, aptPreferences(lock))}`,
    `--customize-hook=${RECORDS_HOOK}`,
    ...DPKG_OPTIONS.map((option) => `--dpkgopt=${option}`),
    ...mirrors.aptOptions.map((option) => `--aptopt=${option}`),
    ...(mirrors.listPath === undefined ? [`--keyring=${DEBIAN_KEYRING}`] : []),
    GUEST_CODENAME,
    target,
    ...(mirrors.listPath === undefined ? [] : [mirrors.listPath]),
  ];
  // An ordinary user's build runs in a user namespace, whose users can't enter that user's directories.
  const tmpDir = isRoot ? job.scratchDir : SHARED_TMP_DIR;
  await runTool('mmdebstrap', args, {
    signal: job.signal,
    env: { SOURCE_DATE_EPOCH: `${SOURCE_DATE_EPOCH}`, TMPDIR: tmpDir },
    missingRemedy: 'Install mmdebstrap.',
    onLine: (line) => {
      const text = line.replace(/^I: /, '').replace(/\.+$/, '');
      if (DEBIAN_STAGES.some((prefix) => text.startsWith(prefix))) job.report(text);
    },
  });
  if (isRoot) {
    for (const name of await readdir(join(root, 'dev'))) {
      await rm(join(root, 'dev', name), { recursive: true, force: true });
    }
    return;
  }
  await unpackTar(target, root, job.signal);
  await rm(target);
}

/** Hooks run as shell scripts, inside the build's user namespace, which sees no file of an ordinary user. */
const writeHook = (path: string, text: string): string => `cat > "$1/${path}" <<'END'\n${text}\nEND`;

/** Writes apt's records of the installed packages, before mmdebstrap removes the indexes. */
const RECORDS_HOOK = `
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
dpkg-query --admindir="$1/var/lib/dpkg" -W -f '\${Package}=\${Version}\\n' |
  xargs apt-cache show > "$1/${APT_RECORDS}"`;

/** Unpacks without owners (only root could keep them) and device files (the guest's kernel creates its own). */
export async function unpackTar(tar: string, root: string, signal: AbortSignal): Promise<void> {
  const args = ['-x', '-p', '--no-same-owner', '--exclude=./dev/*', '-f', tar, '-C', root];
  await runTool('tar', args, { signal });
}

async function packTar(root: string, tar: string, signal: AbortSignal): Promise<void> {
  const same = ['--sort=name', `--mtime=@${SOURCE_DATE_EPOCH}`, '--owner=0', '--group=0'];
  await runTool('tar', ['-c', '-f', tar, '-C', root, ...same, '--numeric-owner', '.'], { signal });
}

/** Installs wheels with the digests of the lock file, for the guest's Python instead of the host's. */
async function installWheels(job: Job, target: string, lockPath: string): Promise<void> {
  await runTool(
    'python3',
    [
      '-m',
      'pip',
      'install',
      '--no-deps',
      '--require-hashes',
      ...wheelOptions(),
      '--no-compile',
      '--no-input',
      '--disable-pip-version-check',
      '--no-cache-dir',
      '--target',
      target,
      '-r',
      lockPath,
    ],
    { signal: job.signal, env: { PIP_ROOT_USER_ACTION: 'ignore', PIP_PROGRESS_BAR: 'off', TMPDIR: job.scratchDir } },
  );
}

/** Options with which any pip selects wheels for the guest's interpreter and C library. */
export function wheelOptions(): string[] {
  const abis = [`cp${GUEST_PYTHON.replace('.', '')}`, 'abi3', 'none'];
  const platforms = ['manylinux_2_28_x86_64', 'manylinux_2_17_x86_64', 'manylinux2014_x86_64', 'any'];
  return [
    '--only-binary=:all:',
    '--python-version',
    GUEST_PYTHON,
    '--implementation',
    'cp',
    ...abis.flatMap((abi) => ['--abi', abi]),
    ...platforms.flatMap((platform) => ['--platform', platform]),
  ];
}

/**
 * Makes files that a build added readable and searchable for all, like packages of Debian. Otherwise a strict umask of
 * the builder would get into the image, and its user could not run Python.
 */
export async function makeReadable(root: string, paths: readonly string[], signal: AbortSignal): Promise<void> {
  const full = paths.map((path) => join(root, path));
  await runTool('chmod', ['-R', 'u=rwX,go=rX', ...full], { signal });
}

/** Everything in the base that comes from no Debian package. */
const BUILT_PATHS: readonly string[] = [
  ...PYTHON_TREES,
  ...Object.keys(ETC_FILES),
  ...Object.keys(SCRIPTS),
  '.cargo',
  'etc/apt/sources.list.d',
  'var/cache/apt',
  'var/lib/apt/lists',
  'var/log',
  USER.home,
];

async function configure(root: string): Promise<void> {
  await forgetScripts(root);
  for (const path of REMOVED_PATHS) await rm(join(root, path), { recursive: true, force: true });
  for (const [path, content] of Object.entries(ETC_FILES)) {
    await writeFile(await placeIn(root, path), content);
  }
  for (const [path, script] of Object.entries(SCRIPTS)) {
    await writeFile(await placeIn(root, path), script, { mode: 0o755 });
  }
  for (const [path, target] of Object.entries(ETC_LINKS)) {
    await symlink(target, await placeIn(root, path));
  }
  for (const [path, line] of Object.entries(ETC_LINES)) await appendFile(join(root, path), line);
  // Programs recreate the other removed directories; these must exist.
  for (const path of EMPTY_DIRS) await mkdir(join(root, path), { recursive: true });
  await mkdir(join(root, USER.home), { recursive: true });
}

/** Removes the scripts from the packages' file lists: they name the host's interpreter, and are removed. */
async function forgetScripts(root: string): Promise<void> {
  const isRecord = (path: string): boolean => path.endsWith('.dist-info/RECORD');
  for (const path of await filesUnder(join(root, SITE_PACKAGES), isRecord)) {
    const lines = (await readFile(path, 'utf8')).split('\n');
    const kept = lines.filter((line) => !/^(?:\.\.\/)*bin\//.test(line));
    await writeFile(path, kept.join('\n'));
  }
}

async function compileBytecode(job: Job, root: string): Promise<void> {
  job.report('compile Python');
  for (const name of STRIPPED_PACKAGES) {
    const isLibrary = (path: string): boolean => path.endsWith('.so');
    for (const path of await filesUnder(join(root, SITE_PACKAGES, name), isLibrary)) {
      await writeFile(path, withoutSections(await readFile(path)));
    }
  }
  const trees = PYTHON_TREES.map((tree) => join(root, tree));
  for (const tree of trees) await removeDirectories(tree, '__pycache__');
  await compileTrees(root, trees, job.signal);
  job.report('pack');
}

/**
 * Compiles bytecode that is valid without a check of the source: all files of an image have one timestamp, by which
 * Python would consider each out of date. Its paths are those of the guest. Packages' own tests, which no program
 * imports, get none. The compiler must not keep bytecode of its own imports: that would contain this directory, and
 * would not be compiled again.
 */
export async function compileTrees(root: string, trees: readonly string[], signal: AbortSignal): Promise<void> {
  const libraries = [join(root, 'usr/lib/x86_64-linux-gnu'), join(root, 'lib/x86_64-linux-gnu')];
  const python = [
    '--library-path',
    libraries.join(':'),
    join(root, `usr/bin/python${GUEST_PYTHON}`),
    '-S',
    '-s',
    '-m',
    'compileall',
    '-q',
    '-f',
    '-j',
    `${availableParallelism()}`,
    '-x',
    `^${join(root, SITE_PACKAGES).replace(/\W/g, '\\$&')}/.*/tests/`,
    '--invalidation-mode',
    'unchecked-hash',
    '-s',
    root,
    '-p',
    '/',
    ...trees,
  ];
  await runTool(join(root, 'lib64/ld-linux-x86-64.so.2'), python, {
    signal,
    env: { PYTHONHOME: join(root, 'usr'), PYTHONHASHSEED: '0', PYTHONPATH: '', PYTHONDONTWRITEBYTECODE: '1' },
  });
}

/** Parses `name==version --hash=…` lines of the lock file into versions by name. */
export function parseLock(text: string): ReadonlyMap<string, string> {
  const versions = new Map<string, string>();
  for (const line of text.split('\n')) {
    const match = /^([\w.-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*$/.exec(line);
    if (match?.[1] !== undefined && match[2] !== undefined) versions.set(match[1], match[2]);
    else if (line.trim() !== '' && !line.startsWith('#')) {
      throw new ImageError('source_invalid', `read the lock file: line "${line}" has no pinned version and digest`);
    }
  }
  return versions;
}

export function parseDpkgStatus(text: string): ReadonlyMap<string, string> {
  const versions = new Map<string, string>();
  for (const stanza of text.split('\n\n')) {
    const name = /^Package: (.+)$/m.exec(stanza)?.[1];
    const version = /^Version: (.+)$/m.exec(stanza)?.[1];
    const installed = /^Status: install ok installed$/m.test(stanza);
    if (installed && name !== undefined && version !== undefined) versions.set(name, version);
  }
  return versions;
}

/** Returns a path below the image's root, after creating its directory. */
export async function placeIn(root: string, path: string): Promise<string> {
  const full = join(root, path);
  await mkdir(dirname(full), { recursive: true });
  return full;
}
