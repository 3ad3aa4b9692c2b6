/**
 * Measures the cost of the Firecracker driver, on any KVM: `node tools/firecracker-figures.ts [rounds] [clones]`
 * (`clones`: only figures of clones that map their RAM).
 * The guest is the tests' (12 KB, integer instructions only), so the figures are of the VMM and the driver, not of a
 * Linux. Each row has its baseline from the same run; prints a table for docs/benchmarks.md.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../src/base/clock.ts';
import { readConfig } from '../src/base/config.ts';
import { silentLog } from '../src/base/log.ts';
import { percentile } from '../src/base/statistics.ts';
import { MIB } from '../src/base/units.ts';
import { writeLauncher } from '../src/host/runtime/firecracker/filters.ts';
import { makeFirecracker } from '../src/host/runtime/firecracker/firecracker.ts';
import type { Vm, VmmDriver, VmSnapshot, VmSpec } from '../src/machine/vmm/driver.ts';
import { createFirecrackerDriver } from '../src/machine/vmm/firecracker/driver.ts';
import { closeFd, createMemFd } from '../src/sys/fd.ts';
import { copySparse } from '../src/sys/sparse.ts';
import { copyDataInto, warmSparseThreads } from '../src/sys/sparse-threads.ts';
import { firecrackerFiles } from '../test/support/firecracker.ts';

const MEMORY_MIB = 128;
const ECHOES = 50;
const rounds = Number(process.argv[2] ?? '20');
const files = firecrackerFiles();
if (typeof files === 'string') throw new Error(files);
const { firecracker, jailer, kernelPath, rootImagePath } = files;
const base = mkdtempSync(join(tmpdir(), 'nv-figures-'));
const figures = new Map<string, number[]>();
let made = 0;

function note(name: string, value: number): void {
  figures.set(name, [...(figures.get(name) ?? []), value]);
}

async function timed<T>(name: string, body: () => Promise<T>): Promise<T> {
  const began = performance.now();
  const result = await body();
  note(name, performance.now() - began);
  return result;
}

function makeSpec(more: Partial<VmSpec> = {}): VmSpec {
  made += 1;
  const dir = join(base, `${made}`);
  mkdirSync(dir, { mode: 0o700 });
  const overlayPath = join(dir, 'overlay');
  writeFileSync(overlayPath, Buffer.alloc(65_536));
  return {
    id: `figures${made}`,
    dir,
    cpus: 1,
    memoryMib: MEMORY_MIB,
    kernelPath,
    rootImagePath,
    overlayPath,
    guestCid: 3,
    channelPath: join(dir, 'v'),
    console: 'log',
    ...more,
  };
}

/** Waits until the guest has said hello. */
async function untilHello<T>(channelPath: string, start: () => Promise<T>): Promise<T> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(`${channelPath}_1024`, resolve));
  const hello = once(server, 'connection');
  const started = await start();
  const [socket] = await hello;
  socket.destroy();
  server.close();
  return started;
}

const startVm = (driver: VmmDriver, spec: VmSpec): Promise<Vm> =>
  untilHello(spec.channelPath, () => driver.start(spec));

/** The same machine without any driver: everything in one file. */
async function bare(): Promise<void> {
  const { dir } = makeSpec();
  const config = {
    'boot-source': { kernel_image_path: kernelPath, boot_args: 'reboot=k panic=1 pci=off' },
    drives: [
      { drive_id: 'root', path_on_host: rootImagePath, is_root_device: true, is_read_only: true },
      { drive_id: 'o', path_on_host: 'overlay', is_root_device: false, is_read_only: false },
    ],
    'machine-config': { vcpu_count: 1, mem_size_mib: MEMORY_MIB },
    vsock: { guest_cid: 3, uds_path: 'v' },
    entropy: {},
  };
  writeFileSync(join(dir, 'config'), JSON.stringify(config));
  let child: ChildProcess | undefined;
  await timed('bare', () =>
    untilHello(join(dir, 'v'), async () => {
      const args = ['--no-api', '--config-file', 'config'];
      child = spawn(firecracker, args, { cwd: dir, stdio: 'ignore' });
    }),
  );
  child?.kill('SIGKILL');
}

async function echoes(vm: Vm): Promise<void> {
  const socket = connect(vm.channelPath);
  await once(socket, 'connect');
  socket.write('CONNECT 5000\n');
  await once(socket, 'data');
  socket.write('ECHO\n');
  for (let n = 0; n < ECHOES; n += 1) {
    await timed('echo', async () => {
      socket.write('sixteen bytes of');
      await once(socket, 'data');
    });
  }
  socket.destroy();
}

/** Resident memory except the mapping of the guest's RAM, MiB. */
function overheadMib(pid: number): number {
  let kib = 0;
  let isRam = false;
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'latin1').split('\n')) {
    const [name, value] = line.split(/:\s+/);
    const size = Number.parseInt(value ?? '', 10);
    if (name === 'Size') isRam = size >= MEMORY_MIB * 1024;
    if (name === 'Rss' && !isRam) kib += size;
  }
  return kib / 1024;
}

/** RAM of the guest that clones start from: the default size of a sandbox, and the data of its template. */
const CLONE_MIB = 512;
const DATA_MIB = 170;
/** Offset where the tests' guest has no data. */
const DATA_AT_MIB = 128;

interface Source {
  readonly snapshot: VmSnapshot;
  /** RAM, read-only. */
  readonly memoryPath: string;
  readonly overlayPath: string;
}

async function makeSource(driver: VmmDriver): Promise<Source> {
  const memoryFd = createMemFd('template', CLONE_MIB * MIB);
  const spec = makeSpec({ memoryMib: CLONE_MIB, memoryFd });
  const vm = await startVm(driver, spec);
  await vm.vsockHotplug?.unplugVsock();
  const snapshot = await vm.saveState?.(join(spec.dir, 'state'));
  if (snapshot === undefined) throw new Error('no snapshot');
  await vm.kill();
  for (let at = DATA_AT_MIB; at < DATA_AT_MIB + DATA_MIB; at += 1)
    writeSync(memoryFd, randomBytes(MIB), 0, MIB, at * MIB);
  const memoryPath = join(spec.dir, 'ram');
  await copySparse(`/proc/self/fd/${memoryFd}`, memoryPath);
  chmodSync(memoryPath, 0o444);
  closeFd(memoryFd);
  return { snapshot, memoryPath, overlayPath: spec.overlayPath };
}

/** Starts a clone as a sandbox does, with copied or mapped RAM. */
async function cloneOnce(name: string, driver: VmmDriver, source: Source, kind: 'copied' | 'mapped'): Promise<void> {
  const memoryFd = createMemFd('clone', CLONE_MIB * MIB);
  const { memoryPath, overlayPath } = source;
  const spec = makeSpec({ memoryMib: CLONE_MIB, memoryFd });
  copyFileSync(overlayPath, spec.overlayPath);
  const vm = await timed(`${name}.${kind}`, () =>
    startVm(driver, {
      ...spec,
      ...(kind === 'copied'
        ? { snapshot: source.snapshot, memoryReady: copyDataInto(memoryPath, `/proc/self/fd/${memoryFd}`) }
        : { snapshot: { ...source.snapshot, memoryPath } }),
    }),
  );
  const status = readFileSync(`/proc/${vm.pid}/status`, 'latin1');
  const anonymous = Number(/^RssAnon:\s+(\d+)/m.exec(status)?.[1]) / 1024;
  const inJail = join(base, 'run/jail/firecracker', spec.id, 'root/fc/memory');
  const copies = [`/proc/self/fd/${memoryFd}`, ...(existsSync(inJail) ? [inJail] : [])]
    .map((path) => statSync(path))
    .filter(({ ino }) => ino !== statSync(memoryPath).ino);
  const copied = copies.reduce((sum, { blocks }) => sum + (blocks * 512) / MIB, 0);
  note(`${name}.${kind}.own`, anonymous + copied);
  await vm.kill();
  closeFd(memoryFd);
}

async function clones(driver: VmmDriver, other: Jailed | null, source: Source): Promise<void> {
  const kinds = ['copied', 'mapped'] as const;
  for (const kind of kinds) await cloneOnce('clone', driver, source, kind);
  if (other === null) return;
  for (const kind of kinds) await cloneOnce('clone-confined', other.confined, source, kind);
}

interface Jailed {
  /** With only its jailer. */
  readonly jailed: VmmDriver;
  /** As sandboxes get it. */
  readonly confined: VmmDriver;
  /** Path of the program that installs a filter on itself and becomes the jailer. */
  readonly launcher: string;
}

async function round(driver: VmmDriver, other: Jailed | null): Promise<void> {
  await bare();
  const spec = makeSpec();
  const vm = await timed('start', () => startVm(driver, spec));
  note('overhead', overheadMib(Number(vm.pid)));
  await echoes(vm);
  await timed('pause', () => vm.pause());
  await timed('resume', () => vm.resume());
  const memoryPath = join(spec.dir, 'memory');
  const full = await timed('full', () => save(vm, { statePath: join(spec.dir, 's1'), memoryPath }));
  await vm.resume();
  const files = { statePath: join(spec.dir, 's2'), memoryPath: join(spec.dir, 'next') };
  copyFileSync(memoryPath, files.memoryPath);
  await timed('diff', () => save(vm, files, 'diff'));
  await vm.kill();
  const clone = await timed('load', () => startVm(driver, makeSpec({ snapshot: full })));
  await timed('kill', () => clone.kill());
  if (other === null) return;
  for (const name of ['jailed', 'confined'] as const) {
    const prisoner = await timed(name, () => startVm(other[name], makeSpec()));
    await prisoner.kill();
  }
  // The first of them pays for what a VM has left in the caches: each is first every other time.
  const both = [
    { name: 'exec', argv: [] },
    { name: 'launcher', argv: [other.launcher] },
  ];
  if ((figures.get('exec')?.length ?? 0) % 2 === 1) both.reverse();
  for (const { name, argv } of both) {
    const [command = '', ...args] = [...argv, '/bin/true'];
    await timed(name, () => once(spawn(command, args), 'exit'));
  }
}

async function save(
  vm: Vm,
  files: { statePath: string; memoryPath: string },
  kind: 'full' | 'diff' = 'full',
): Promise<VmSnapshot> {
  const snapshot = await vm.saveWhole?.(files, kind);
  if (snapshot === undefined) throw new Error('no snapshot');
  note('state', statSync(files.statePath).size / 1024);
  return snapshot;
}

const SIZES = `${CLONE_MIB} MiB with ${DATA_MIB} MiB of data`;

const ROWS: readonly (readonly [name: string, what: string, unit: string, baseline: string])[] = [
  ['start', 'start until the guest has said hello', 'ms', 'bare'],
  ['jailed', 'the same with the jailer', 'ms', 'start'],
  ['confined', 'the same as sandboxes get it: launcher, namespaces, group, limits', 'ms', 'jailed'],
  ['launcher', 'a program that does nothing, through the launcher', 'ms', 'exec'],
  ['load', 'a clone of a whole snapshot, until its hello', 'ms', 'start'],
  ['clone.mapped', `a clone of ${SIZES}, until its hello`, 'ms', 'clone.copied'],
  ['clone.mapped.own', 'memory of its own', 'MiB', 'clone.copied.own'],
  ['clone-confined.mapped', 'the same as sandboxes get it', 'ms', 'clone-confined.copied'],
  ['clone-confined.mapped.own', 'memory of its own', 'MiB', 'clone-confined.copied.own'],
  ['pause', 'the processors stop', 'ms', ''],
  ['resume', 'they go on', 'ms', ''],
  ['full', `whole snapshot, ${MEMORY_MIB} MiB`, 'ms', ''],
  ['diff', 'diff snapshot', 'ms', 'full'],
  ['kill', 'until nothing is left', 'ms', ''],
  ['echo', '16 bytes there and back, over the channel', 'ms', ''],
  ['overhead', 'resident memory of the VMM without its guest', 'MiB', ''],
  ['state', 'devices in a snapshot', 'KiB', ''],
];

const common = { binary: firecracker, clock: systemClock, log: silentLog, tracksDirtyPages: true };

async function openJailed(): Promise<Jailed & { close(): Promise<void> }> {
  const home = { cacheDir: join(base, 'cache'), runDir: join(base, 'run') };
  const { driver: confined, confinement } = await makeFirecracker({
    config: { ...readConfig({}), firecracker, jailer, jail: 'enforce' },
    home,
    log: silentLog,
    acceptsGaps: true,
  });
  const baseDir = join(base, 'jails');
  mkdirSync(baseDir, { mode: 0o700 });
  const jailed = await createFirecrackerDriver({
    ...common,
    jail: () => ({ jailer, baseDir, uid: 61_238, gid: 61_238 }),
  });
  const launcher = await writeLauncher(home, 'enforce');
  return { jailed, confined, launcher, close: () => confinement.close() };
}

const at = (values: readonly number[], percent: number): string =>
  percentile(values, percent)?.toPrecision(3) ?? 'none';

try {
  warmSparseThreads();
  const driver = await createFirecrackerDriver(common);
  const isRoot = process.getuid?.() === 0;
  const other = isRoot ? await openJailed() : null;
  const source = await makeSource(driver);
  for (let n = 0; n < rounds; n += 1) {
    if (process.argv[3] !== 'clones') await round(driver, other);
    await clones(driver, other, source);
  }
  await other?.close();
  console.log(`${driver.description}, ${rounds} rounds`);
  console.log('| name | what | unit | n | p50 | p95 | baseline | its p50 |\n|---|---|---|---|---|---|---|---|');
  for (const [name, what, unit, baseline] of ROWS) {
    const values = figures.get(name);
    if (values === undefined) continue;
    const other = figures.get(baseline);
    const compared = other === undefined ? '– | ' : `\`${baseline}\` | ${at(other, 50)}`;
    const cells = [`\`firecracker.${name}\``, what, unit, values.length, at(values, 50), at(values, 95)];
    console.log(`| ${cells.join(' | ')} | ${compared} |`);
  }
} finally {
  rmSync(base, { recursive: true, force: true });
}
