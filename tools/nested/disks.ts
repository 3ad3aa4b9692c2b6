/**
 * The disks, kernel and initrd of the nested host. The first two disks are kept by key:
 *
 *     debian.ext4   Debian with the Debian packages of a NeuroVisor host
 *     tools.ext4    Node.js, node_modules and Firecracker, read-only
 *     data.ext4     the checkout, and the home with kernel and images, made anew for each run
 *     initrd.gz     modules of the disk, and the scripts of `l1/`, packed anew for each run
 */
import { createHash } from 'node:crypto';
import { chmodSync, cpSync, existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { BUILD_CHOICE } from '../../src/artifacts/image/build-choice.ts';
import { kernelRecipe } from '../../src/artifacts/image/kernel/kernel.ts';
import { rootfsRecipe } from '../../src/artifacts/image/rootfs/rootfs.ts';
import { runTool } from '../../src/artifacts/image/tool.ts';
import { silentLog } from '../../src/base/log.ts';
import { objectOf, PROGRAMS } from '../../src/machine/observe/compile.ts';

const L1_DIR = join(import.meta.dirname, 'l1');
/** Increment when the steps below change the result. */
const RECIPE_VERSION = 1;
const PACKAGES = [
  'udev,kmod,procps,util-linux,iproute2,nftables,e2fsprogs,curl,ca-certificates,python3,systemd',
  'qemu-system-x86,seabios,bubblewrap,libseccomp2,libbpf1,busybox-static,gcc,libc6-dev,erofs-utils',
].join(',');
const CODENAME = 'bookworm';
/** Newer than Debian 12's own, as on production hosts. */
const KERNEL_NAME = /^linux-image-6\.12\.[^-]+-amd64$/;
/** Modules with which the initrd finds the root. */
const BOOT_MODULES = ['virtio_pci', 'virtio_blk', 'ext4'];
/** Packages that are only for GPUs and builds. */
const LEFT_OUT = /node_modules\/(@biomejs|@typescript|@node-llama-cpp\/linux-x64-)/;
/** Arguments: the checkout, a scratch file, the target. */
const PACK_CHECKOUT = [
  'cd "$1"',
  'git ls-files -z --cached --others --exclude-standard > "$2"',
  'tar -c --null -T "$2" --ignore-failed-read -f - | tar -x -C "$3" -f -',
].join(' && ');
/** Arguments: the tree, the target. The tree's busybox packs it: the machine need not have one. */
const PACK_INITRD = 'cd "$1" && find . | bin/busybox cpio -o -H newc | gzip -1 > "$2"';
const INITRD_PROGRAMS = ['sh', 'mount', 'insmod', 'switch_root', 'sleep', 'cat', 'cp', 'mkdir'];
const DEBIAN_BYTES = '4G';
const TOOLS_BYTES = '3G';
const DATA_BYTES = '8G';

/** Path in the nested host. */
export const COMPILE_CACHE = '/data/home/cache/node';

export interface NestedParts {
  /** Root of the project. */
  readonly checkout: string;
  /** A home that is set up: its Node.js, kernel and images are used. */
  readonly home: string;
  readonly firecracker: string;
  readonly jailer: string;
}

export interface NestedFiles {
  readonly kernel: string;
  readonly initrd: string;
  readonly debian: string;
  readonly tools: string;
  readonly data: string;
}

/**
 * Makes missing disks. Needs root, mmdebstrap and apt.
 * @param cacheDir keeps the disks of the newest key
 * @param onStep called with each step that takes long
 */
export async function makeDisks(
  cacheDir: string,
  parts: NestedParts,
  onStep: (step: string) => void,
): Promise<NestedFiles> {
  const kernelName = await newestKernel();
  const sources = kernelSources();
  const debian = await kept(
    cacheDir,
    'debian',
    [RECIPE_VERSION, PACKAGES, kernelName, ...sources.map(({ key }) => key)],
    async (dir) => {
      onStep('nested host: install Debian');
      await makeDebian(dir, kernelName, sources);
    },
  );
  const tools = await kept(
    cacheDir,
    'tools',
    [
      RECIPE_VERSION,
      LEFT_OUT.source,
      readFileSync(join(parts.checkout, 'package-lock.json')),
      process.version,
      readFileSync(parts.firecracker),
    ],
    async (dir) => {
      onStep('nested host: pack Node.js and packages');
      await makeTools(dir, parts);
    },
  );
  onStep('nested host: pack the checkout');
  const data = join(cacheDir, 'data.ext4');
  await makeData(data, parts, cacheDir);
  const initrd = join(cacheDir, 'initrd.gz');
  await packInitrd(join(debian, 'initrd'), initrd, cacheDir);
  return {
    kernel: join(debian, 'vmlinuz'),
    initrd,
    debian: join(debian, 'debian.ext4'),
    tools: join(tools, 'tools.ext4'),
    data,
  };
}

/** @returns the directory with this key, made if missing; those of other keys are removed */
async function kept(
  cacheDir: string,
  name: string,
  inputs: readonly (string | number | Buffer)[],
  make: (dir: string) => Promise<void>,
): Promise<string> {
  const hash = createHash('sha256');
  for (const input of inputs) hash.update(String(input)).update('\0');
  const dir = join(cacheDir, `${name}-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(dir)) return dir;
  await mkdir(cacheDir, { recursive: true, mode: 0o700 });
  for (const old of await readdir(cacheDir))
    if (old.startsWith(`${name}-`) || old.startsWith('new-'))
      await rm(join(cacheDir, old), { recursive: true, force: true });
  const scratch = await mkdtemp(join(cacheDir, 'new-'));
  try {
    await make(scratch);
    await rename(scratch, dir);
  } catch (error) {
    await rm(scratch, { recursive: true, force: true });
    throw error;
  }
  return dir;
}

async function newestKernel(): Promise<string> {
  const names: string[] = [];
  await runTool('apt-cache', ['search', '--names-only', '^linux-image-6[.]12[.].*-amd64$'], {
    onLine: (line) => {
      const name = line.split(' ')[0] ?? '';
      if (KERNEL_NAME.test(name)) names.push(name);
    },
  });
  const newest = names.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1);
  if (newest === undefined) throw new Error('apt knows no Linux 6.12: run apt-get update');
  return newest;
}

interface KernelSource {
  readonly path: string;
  readonly bytes: number;
  readonly seconds: number;
  readonly key: string;
}

/**
 * A guest kernel built here is keyed by name, size and time of its source: an empty file with these replaces 150 MB.
 */
function kernelSources(): readonly KernelSource[] {
  const dir = '/usr/src';
  return readdirSync(dir)
    .filter((name) => /^linux-source-.*\.tar\.xz$/.test(name))
    .map((name) => {
      const path = join(dir, name);
      const { size, mtimeMs } = statSync(path);
      const seconds = Math.floor(mtimeMs / 1000);
      return { path, bytes: size, seconds, key: `${name} ${size} ${seconds}` };
    });
}

async function makeDebian(dir: string, kernelName: string, sources: readonly KernelSource[]): Promise<void> {
  const root = join(dir, 'root');
  const tar = join(dir, 'root.tar');
  const options = ['--variant=minbase', `--include=${PACKAGES}`, '--skip=cleanup/tmp'];
  await runTool('mmdebstrap', [...options, CODENAME, tar], { env: { TMPDIR: dir } });
  await mkdir(root);
  await runTool('tar', ['-x', '-p', '-f', tar, '-C', root]);
  await rm(tar);
  await runTool('apt-get', ['download', kernelName], { cwd: dir });
  const [deb = ''] = readdirSync(dir).filter((name) => name.endsWith('.deb'));
  // Elsewhere: its /lib would replace the link to /usr/lib.
  const kernel = join(dir, 'kernel');
  await runTool('dpkg-deb', ['-x', join(dir, deb), kernel]);
  await rm(join(dir, deb));
  const version = kernelName.replace('linux-image-', '');
  await runTool('cp', ['-a', join(kernel, 'lib/modules'), join(root, 'usr/lib')]);
  cpSync(join(kernel, 'boot', `vmlinuz-${version}`), join(dir, 'vmlinuz'));
  await rm(kernel, { recursive: true });
  await runTool('chroot', [root, '/sbin/depmod', version]);
  for (const name of ['nested', 'tools', 'data', 'usr/src']) await mkdir(join(root, name), { recursive: true });
  await writeFile(join(root, 'etc/hostname'), 'nested\n');
  await writeFile(join(root, 'etc/hosts'), '127.0.0.1 localhost nested\n');
  for (const { path, bytes, seconds } of sources) {
    await runTool('truncate', ['-s', `${bytes}`, join(root, path)]);
    await runTool('touch', ['-d', `@${seconds}`, join(root, path)]);
  }
  await makeInitrdTree(join(dir, 'initrd'), root, version);
  await makeFileSystem(join(dir, 'debian.ext4'), root, DEBIAN_BYTES);
  await rm(root, { recursive: true });
}

/** busybox and the modules of the disk, in load order. */
async function makeInitrdTree(tree: string, root: string, version: string): Promise<void> {
  for (const name of ['bin', 'modules', 'proc', 'sys', 'dev', 'root'])
    await mkdir(join(tree, name), { recursive: true });
  await cp(join(root, 'bin/busybox'), join(tree, 'bin/busybox'));
  for (const name of INITRD_PROGRAMS) await symlink('busybox', join(tree, 'bin', name));
  const order: string[] = [];
  for (const module of BOOT_MODULES) {
    const paths: string[] = [];
    await runTool('chroot', [root, '/sbin/modprobe', '-S', version, '--show-depends', module], {
      onLine: (line) => {
        const [kind, path] = line.trim().split(/\s+/);
        if (kind === 'insmod' && path !== undefined) paths.push(path);
      },
    });
    for (const path of paths) {
      const name = basename(path).replace(/\.xz$/, '');
      if (order.includes(name)) continue;
      order.push(name);
      const to = join(tree, 'modules', basename(path));
      await cp(join(root, path), to);
      if (path.endsWith('.xz')) await runTool('xz', ['-d', to]);
    }
  }
  await writeFile(join(tree, 'order'), `${order.join('\n')}\n`);
}

/** A changed script of the nested host only repacks the initrd, without rebuilding Debian. */
async function packInitrd(kept: string, initrd: string, cacheDir: string): Promise<void> {
  const tree = await mkdtemp(join(cacheDir, 'new-'));
  try {
    await runTool('cp', ['-a', `${kept}/.`, tree]);
    cpSync(L1_DIR, join(tree, 'nested'), { recursive: true });
    cpSync(join(L1_DIR, 'initrd-init'), join(tree, 'init'));
    for (const name of ['init', 'nested/services']) chmodSync(join(tree, name), 0o755);
    await runTool('sh', ['-c', PACK_INITRD, 'sh', tree, initrd]);
  } finally {
    await rm(tree, { recursive: true, force: true });
  }
}

async function makeTools(dir: string, { checkout, firecracker, jailer }: NestedParts): Promise<void> {
  const tree = join(dir, 'tree');
  await mkdir(join(tree, 'firecracker'), { recursive: true });
  cpSync(process.execPath, join(tree, 'node'), { dereference: true });
  cpSync(realpathSync(join(checkout, 'node_modules')), join(tree, 'node_modules'), {
    recursive: true,
    verbatimSymlinks: true,
    filter: (path) => !LEFT_OUT.test(path),
  });
  cpSync(firecracker, join(tree, 'firecracker/firecracker'));
  cpSync(jailer, join(tree, 'firecracker/jailer'));
  await runTool('chown', ['-R', '0:0', tree]);
  await makeFileSystem(join(dir, 'tools.ext4'), tree, TOOLS_BYTES);
  await rm(tree, { recursive: true });
}

/** The checkout without ignored files, and the artifacts of its set-up. */
async function makeData(path: string, { checkout, home }: NestedParts, cacheDir: string): Promise<void> {
  const tree = await mkdtemp(join(cacheDir, 'new-'));
  try {
    const project = join(tree, 'neurovisor');
    await mkdir(project);
    const list = join(tree, 'list');
    await runTool('sh', ['-c', PACK_CHECKOUT, 'sh', checkout, list, project]);
    await rm(list);
    await symlink('/tools/node_modules', join(project, 'node_modules'));
    for (const artifact of await artifactsOf(checkout, home)) {
      const from = join(home, 'cache', artifact);
      if (!existsSync(from)) throw new Error(`no ${from}: run neurovisor setup`);
      const to = join(tree, 'home/cache', artifact);
      await mkdir(dirname(to), { recursive: true });
      await runTool('cp', ['-a', '--sparse=always', from, to]);
    }
    await compile(tree, checkout);
    await rm(path, { force: true });
    await makeFileSystem(path, tree, DATA_BYTES);
  } finally {
    await rm(tree, { recursive: true, force: true });
  }
}

/**
 * Fills the compile cache that `./neurovisor` would keep, by a command that loads most modules, at their paths in the
 * nested host. Otherwise Node.js there parses TypeScript for half a minute per command.
 */
async function compile(tree: string, checkout: string): Promise<void> {
  const ofSystem = ['lib', 'lib64', 'bin', 'sbin'].flatMap((dir) => ['--symlink', `usr/${dir}`, `/${dir}`]);
  const view = [
    ...['--ro-bind', '/usr', '/usr', ...ofSystem, '--ro-bind', '/etc', '/etc'],
    ...['--proc', '/proc', '--dev', '/dev', '--tmpfs', '/tmp', '--bind', tree, '/data'],
    ...['--ro-bind', realpathSync(join(checkout, 'node_modules')), '/tools/node_modules'],
    ...['--ro-bind', realpathSync(process.execPath), '/tools/node', '--chdir', '/data/neurovisor'],
    ...['--setenv', 'NODE_COMPILE_CACHE', COMPILE_CACHE, '--setenv', 'NEUROVISOR_HOME', '/tmp/home'],
  ];
  // Its findings, and its status, do not matter.
  const doctor = '/tools/node src/cli/main.ts doctor > /dev/null 2>&1 || true';
  await runTool('bwrap', [...view, 'sh', '-c', doctor]);
}

/** Artifacts below the home's cache, which may also have those of other versions. */
async function artifactsOf(checkout: string, home: string): Promise<readonly string[]> {
  const context = {
    cacheDir: join(home, 'cache'),
    sourceDir: checkout,
    progress: () => undefined,
    signal: new AbortController().signal,
    log: silentLog,
  };
  const kernel = await kernelRecipe(context);
  const rootfs = await rootfsRecipe(context);
  const others = ['overlay', 'model'].flatMap((kind) =>
    readdirSync(join(home, 'cache', kind)).map((name) => join(kind, name)),
  );
  // A build from source is a choice of the home.
  others.push(...readdirSync(join(home, 'cache')).filter((name) => name === BUILD_CHOICE));
  // Objects of programs that differ from the shipped ones: the nested host has no compiler.
  const dir = join(home, 'cache/bpf');
  const probes = await Promise.all(PROGRAMS.map((program) => objectOf(program, { dir })));
  const compiled = probes.filter((path) => path.startsWith(dir));
  others.push(...compiled.map((path) => join('bpf', basename(path))));
  return [join(kernel.kind, kernel.key), join(rootfs.kind, rootfs.key), ...others];
}

async function makeFileSystem(path: string, tree: string, size: string): Promise<void> {
  const options = ['-q', '-F', '-O', '^has_journal', '-d', tree];
  await runTool('mkfs.ext4', [...options, path, size]);
}
