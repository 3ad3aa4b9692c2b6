/**
 * QEMU as a driver, with KVM or in software emulation.
 *
 *     start ─┬─ attach the vsock backend ──┐
 *            └─ spawn QEMU, stopped (-S) ──┴─ QMP: (load a state) ─ plug vsock, NIC ─ cont ─► guest code runs
 *
 * The vsock device and the network card, if any, are plugged before the machine runs, so the guest finds them at its
 * first scan of the PCI bus; the same commands plug them into a running clone. QMP and the serial line are socket pairs
 * made at the spawn: there is no path to connect to, and nothing to remove.
 */
import { createHash } from 'node:crypto';
import { statfs } from 'node:fs/promises';
import { availableParallelism, cpus } from 'node:os';
import { join } from 'node:path';
import { CleanupStack } from '../../../base/cleanup.ts';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Log } from '../../../base/log.ts';
import { hasDiskLimits } from '../../../base/request/disk-limits.ts';
import { MIB } from '../../../base/units.ts';
import { fileIdentity } from '../../../sys/fd.ts';
import { startTicksOf } from '../../../sys/process-start.ts';
import { startTscMeter } from '../../../sys/tsc.ts';
import type { AttachVsock } from '../attach-vsock.ts';
import { openDifference } from '../difference-file.ts';
import type { MachineSize, Vm, VmmDriver, VmSpec } from '../driver.ts';
import { VmmError } from '../errors.ts';
import type { HeldFile, KeptVm } from '../kept.ts';
import { explainKvm } from '../kvm-device.ts';
import { type Launch, type Launched, type LaunchFile, type LaunchPlan, launchDirect } from '../launch.ts';
import { releaseAll } from '../process-vm.ts';
import { checkFiles, checkSpec, VHOST_SOCKET_NAME } from '../spec.ts';
import { explainFailure, throwIfCancelled, unlessCancelled } from '../starting.ts';
import { type Adopting, adoptQemu } from './adopt.ts';
import { kernelArgs, MEMORY_FD, QMP_FD, qemuArgs, SERIAL_FD } from './args.ts';
import { QemuBalloon } from './balloon.ts';
import { limitDisks } from './disk-limits.ts';
import { DiskWatch } from './disk-watch.ts';
import { HELD_COUNT, HeldEnds, takeFile, takeMemory } from './held.ts';
import { findQboot, readQemuVersion } from './installation.ts';
import { NicSlot } from './nic.ts';
import { PrivateRam } from './private-ram.ts';
import { QemuProcess } from './process.ts';
import type { QmpClient } from './qmp.ts';
import { RamDescriptor, UnexpectedDescriptor } from './ram-descriptor.ts';
import { configurationOf, loadState } from './state.ts';
import { type PrivateMemory, QemuVm } from './vm.ts';
import { type PluggedVolumes, plugVolumes, savedState } from './volumes.ts';
import { VsockSlot } from './vsock-slot.ts';

/** From the spawn to QEMU's greeting; usually 30 ms. */
const GREETING_MS_MAX = 15_000;

interface QemuDriverOptions {
  readonly accelerator: 'kvm' | 'tcg';
  /** Name in PATH or absolute path. */
  readonly binary: string;
  readonly attachVsock: AttachVsock;
  /** The vsock device copies the guest's memory from and to QEMU's process. Default: it maps it. */
  readonly copiesMemory?: boolean;
  /** Clones can map RAM copy-on-write, up to this size, MiB: `VmSnapshot.memoryPath`. Default: none. */
  readonly mapsMemoryMibMax?: number;
  readonly clock: Clock;
  readonly log: Log;
  /** Starts the process. Default: directly. */
  readonly launch?: Launch;
  /** `launch` supports `LaunchPlan.sparedFd`, without which such a clone can't have a balloon. Default: it does not. */
  readonly sparesFiles?: boolean;
  /** `launch` supports `LaunchPlan.outlives`, so that VMs can be taken over. Default: it does not. */
  readonly outlives?: boolean;
  /** QEMU's own seccomp filter. Default: on. Off if the jail's filter only logs. */
  readonly ownFilter?: boolean;
}

/** @throws VmmError `vmm_missing` when the binary can't be used */
export async function createQemuDriver(options: QemuDriverOptions): Promise<VmmDriver> {
  const { accelerator, binary } = options;
  const [qemu, firmwarePath] = await Promise.all([readQemuVersion(binary), findQboot(binary)]);
  if (firmwarePath === null) options.log.warn('qboot.rom is not installed: guests boot slower');
  const tsc = accelerator === 'tcg' ? startTscMeter() : null;
  const host: HostFacts = {
    binary,
    firmwarePath,
    version: qemu.version,
    tscKhz: () => tsc?.read() ?? null,
    ramDescriptor: options.sparesFiles === true ? new RamDescriptor(accelerator) : null,
  };
  return {
    name: 'qemu',
    description: `QEMU ${qemu.version} (${accelerator === 'kvm' ? 'KVM' : 'software emulation'})`,
    accelerator,
    capabilities: {
      hotplugNic: true,
      channelLimits: true,
      volumes: true,
      ...(options.mapsMemoryMibMax === undefined
        ? {}
        : {
            mapsMemory: true,
            mapsMemoryMibMax: options.mapsMemoryMibMax,
            mapsMemoryWithBalloon: options.sparesFiles === true,
          }),
    },
    machineOf: (size) => machineOf(options, host, size),
    async start(spec, signal) {
      try {
        return await start(options, host, spec, signal);
      } catch (error) {
        if (!(error instanceof UnexpectedDescriptor)) throw error;
        options.log.info('QEMU is started again, with a filter for its descriptors', {
          vm: spec.id,
          cause: describeError(error),
        });
        return await start(options, host, spec, signal);
      }
    },
    ...(options.outlives === true ? adoption(options) : {}),
  };
}

function adoption(options: QemuDriverOptions): Pick<VmmDriver, 'adopt' | 'memoryOf' | 'fileOf'> {
  return {
    adopt: async (spec, kept, signal) => {
      const makeFor: Adopting['makeSlot'] = (qmp, pid, hasOwn) => makeSlot(options, spec, { qmp, pid }, hasOwn);
      return await adoptQemu({ ...options, freeBytes, makeSlot: makeFor }, spec, kept, signal);
    },
    memoryOf: takeMemory,
    fileOf: takeFile,
  };
}

interface HostFacts {
  readonly binary: string;
  readonly version: string;
  readonly firmwarePath: string | null;
  readonly tscKhz: () => number | null;
  /** `null` if the launch spares no file. */
  readonly ramDescriptor: RamDescriptor | null;
}

async function start(
  options: QemuDriverOptions,
  host: HostFacts,
  spec: VmSpec,
  signal: AbortSignal | undefined,
): Promise<Vm> {
  const began = options.clock.now();
  checkSpec(spec, availableParallelism());
  await checkFiles(spec);
  const machine = machineOf(options, host, spec);
  const { state, volumes } = await savedState(spec, machine, () => machineOf(options, host, { ...spec, volumes: [] }));
  throwIfCancelled(signal);
  const ram = privateRamOf(spec, host);
  const cleanup = new CleanupStack();
  const release = (): Promise<void> => releaseAll(cleanup, options.log, spec.id);
  cleanup.push('private RAM', () => ram?.close());
  const { disks = [], balloonMib } = spec;
  const isKept = options.outlives === true && spec.keep !== undefined && spec.memoryFd !== undefined;
  const opened = disks.length + (isKept ? HELD_COUNT : 0);
  const sparedFd = ram !== null && balloonMib !== undefined ? host.ramDescriptor?.expected(opened) : undefined;
  const ends = isKept ? new HeldEnds() : null;
  const launch = async (): Promise<Launched> =>
    (options.launch ?? launchDirect)({ ...launchPlan(options, host, spec, ram, ends), sparedFd });
  const launched = await launch().catch(async (error: unknown) => {
    ends?.close();
    await release();
    throw error;
  });
  const held = ends?.sockets() ?? null;
  const process = new QemuProcess(launched, options.clock, spec.console === 'interactive', held);
  const own = { qmp: process.qmp, pid: () => process.pid };
  const slot = makeSlot(options, spec, own, ram !== null);
  const nic = new NicSlot(process.qmp);
  const { clock } = options;
  const disk = new DiskWatch({ qmp: process.qmp, clock, path: spec.overlayPath, freeBytes });
  cleanup.push('jail', () => launched.release());
  cleanup.push('vsock device', () => slot.release());
  cleanup.push('QEMU process', () => process.kill());
  const spawnedMs = options.clock.now() - began;
  try {
    // `bringUp` awaits it; a failure before that must not count as unhandled.
    slot.attach(spec.guestCid).catch((error: unknown) => ignore(error, 'reported by bringUp'));
    const marks = { confinedMs: 0, greetedMs: 0, loadedMs: 0 };
    const now = (): number => options.clock.now() - began;
    const confined = (): void => {
      marks.confinedMs = now();
    };
    launched.pid.then(confined, (error: unknown) => ignore(error, 'reported by bringUp'));
    const checkDescriptor = (): void => {
      if (ram === null || sparedFd === undefined) return;
      host.ramDescriptor?.check(process.pid, ram.identity(), opened, sparedFd);
    };
    const privateMemory = privateMemoryOf(spec, ram, state);
    const keep = (): void => {
      if (ends === null) return;
      const files = ends.files(ram?.fd ?? spec.memoryFd ?? -1);
      spec.keep?.(keptOf(process, launched, files, machine, privateMemory));
    };
    const loaded = { state, ram, checkDescriptor, keep, marks, now, volumes };
    const bringing = bringUp(process, slot, nic, spec, loaded);
    await unlessCancelled(bringing, signal);
    const timings = { spawnedMs, ...marks, runningMs: now() };
    const { id, channelPath } = spec;
    const snapshotMachine = spec.memoryFd === undefined ? null : machine;
    const hasBalloon = spec.balloonMib !== undefined;
    const balloon = hasBalloon ? new QemuBalloon(process.qmp, spec.memoryMib) : undefined;
    const parts = { process, slot, nic, disk, balloon, release };
    return new QemuVm({
      id,
      channelPath,
      timings,
      snapshotMachine,
      ...parts,
      privateMemory,
      limitVmm: (limits) => launched.limitDisks?.(limits),
    });
  } catch (error) {
    const failure = await explainFailure(error, process, options.clock);
    await release();
    throw options.accelerator === 'kvm' ? await explainKvm(failure) : failure;
  }
}

async function freeBytes(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize;
}

/** The RAM that a clone maps; `null` if it has its own. @throws VmmError `vm_spec_invalid` */
function privateRamOf({ snapshot, memoryMib, balloonMib }: VmSpec, { ramDescriptor }: HostFacts): PrivateRam | null {
  if (snapshot?.memoryPath === undefined) {
    if (snapshot?.difference === undefined) return null;
    throw new VmmError('vm_spec_invalid', 'a difference of RAM needs the RAM that it belongs to');
  }
  if (balloonMib !== undefined && ramDescriptor === null)
    throw new VmmError('vm_spec_invalid', 'without a jail, RAM that is mapped copy-on-write can not have a balloon');
  return PrivateRam.open(snapshot.memoryPath, memoryMib * MIB);
}

/** The needs of a save of such a VM; `null` if it has nothing of its own, or can't be saved. */
function privateMemoryOf({ memoryFd }: VmSpec, ram: PrivateRam | null, state: Buffer | null): PrivateMemory | null {
  if (ram === null || state === null || memoryFd === undefined) return null;
  return { ram, configuration: configurationOf(state), memoryFd };
}

/** @throws VmmError `vm_gone` */
function keptOf(
  { pid }: QemuProcess,
  { groups = [] }: Launched,
  held: readonly HeldFile[],
  machine: string,
  own: PrivateMemory | null,
): KeptVm {
  const startTicks = pid === null ? undefined : startTicksOf(pid);
  if (pid === null || startTicks === undefined) throw new VmmError('vm_gone', 'QEMU ended before its guest ran');
  return {
    vmm: { pid, startTicks },
    held,
    groups,
    machine,
    configuration: own?.configuration.toString('base64') ?? null,
  };
}

function launchPlan(
  options: QemuDriverOptions,
  host: HostFacts,
  spec: VmSpec,
  ram: PrivateRam | null,
  ends: HeldEnds | null,
): LaunchPlan {
  const { accelerator } = options;
  const { id, dir, cpus, memoryMib, kernelPath, rootImagePath, overlayPath, disks = [] } = spec;
  const { tscKhz, firmwarePath } = host;
  const memoryFd = ram?.fd ?? spec.memoryFd;
  const hasBalloon = spec.balloonMib !== undefined;
  const kernel = { accelerator, cpus, tscKhz: tscKhz(), bootArgs: spec.bootArgs ?? [] };
  const args = qemuArgs({
    accelerator,
    cpus,
    memoryMib,
    kernelPath,
    rootImagePath,
    overlayPath,
    disks,
    firmwarePath,
    kernelArgs: kernelArgs(kernel),
    inheritsMemory: memoryFd !== undefined,
    hasPrivateMemory: ram !== null,
    hasBalloon,
    incoming: spec.snapshot !== undefined,
  });
  const stdio: LaunchPlan['stdio'][number][] = ['ignore', 'ignore', 'pipe'];
  stdio[QMP_FD] = 'pipe';
  stdio[SERIAL_FD] = 'pipe';
  if (memoryFd !== undefined) stdio[MEMORY_FD] = memoryFd;
  ends?.addTo(stdio);
  const files: LaunchFile[] = [
    { path: kernelPath, access: 'read' },
    // Read-only for the device as well: `readOnlyNode`.
    { path: rootImagePath, access: 'read' },
    { path: overlayPath, access: 'write' },
    ...disks,
    ...(accelerator === 'kvm' ? [{ path: '/dev/kvm', access: 'device' } as const] : []),
  ];
  const filter = options.ownFilter === false ? [] : OWN_FILTER;
  const { diskLimits = {} } = spec;
  const argv = [host.binary, ...filter, ...args];
  // Each page that the clone touches first becomes a page of the shared file, too, if that has a hole there.
  const sharedMib = ram === null ? 0 : memoryMib;
  // In emulation QEMU would waste 1.9 MiB of one for 2 MiB of room for ACPI tables, and on average half a one behind
  // translated code, which is no faster in them. With KVM the guest's RAM may be in some.
  const hugePages = accelerator === 'kvm';
  const plan = { id, dir, cpus, memoryMib, sharedMib, stdio, files, diskLimits, argv, hugePages };
  return ends === null ? plan : { ...plan, outlives: true };
}

/** QEMU's own seccomp filter, set once it has started: no fork, no exec, no change of user or priority. */
export const OWN_FILTER = ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'];

function makeSlot(
  options: QemuDriverOptions,
  spec: VmSpec,
  { qmp, pid }: { readonly qmp: QmpClient; readonly pid: () => number | null },
  hasPrivateMemory: boolean,
): VsockSlot {
  return new VsockSlot({
    qmp,
    attachVsock: options.attachVsock,
    place: { id: spec.id, vhostSocketPath: join(spec.dir, VHOST_SOCKET_NAME), channelPath: spec.channelPath },
    limits: spec.channelLimits,
    memory: spec.memoryFd === undefined ? undefined : fileIdentity(spec.memoryFd),
    copiedProcess: options.copiesMemory === true || hasPrivateMemory ? pid : undefined,
  });
}

/** Equal command lines give equal devices; differences between two starts of one machine are omitted. */
function machineOf(options: QemuDriverOptions, host: HostFacts, size: MachineSize): string {
  const { accelerator } = options;
  const { cpus: count, memoryMib, balloonMib, disks = [], volumes = [] } = size;
  const hasBalloon = balloonMib !== undefined;
  const args = qemuArgs({
    accelerator,
    cpus: count,
    memoryMib,
    hasBalloon,
    firmwarePath: host.firmwarePath,
    kernelArgs: kernelArgs({ accelerator, cpus: count, tscKhz: null, bootArgs: [] }),
    kernelPath: '/k',
    rootImagePath: '/r',
    overlayPath: '/o',
    disks: disks.map(({ access }) => ({ path: '/d', access })),
    inheritsMemory: true,
    incoming: false,
  });
  // A guest keeps the features and the clock rate of the processor that it was booted on.
  const processor = cpus()[0]?.model.trim() ?? 'unknown';
  const digest = createHash('sha256').update(JSON.stringify(args)).digest('hex').slice(0, 16);
  const attached = volumes.length === 0 ? '' : `, volumes ${volumes.map(({ access }) => access).join(' ')}`;
  return `QEMU ${host.version} ${accelerator}, ${processor}, ${digest}${attached}`;
}

/** The VM's starting state; `null` if there is none. */
interface Loaded {
  readonly state: Buffer | null;
  readonly ram: PrivateRam | null;
  readonly checkDescriptor: () => void;
  /** Records the VM for the next process. */
  readonly keep: () => void;
  readonly volumes: PluggedVolumes;
}

async function bringUp(
  process: QemuProcess,
  slot: VsockSlot,
  nic: NicSlot,
  spec: VmSpec,
  {
    state,
    ram,
    checkDescriptor,
    keep,
    marks,
    now,
    volumes,
  }: Loaded & { readonly marks: { greetedMs: number; loadedMs: number }; readonly now: () => number },
): Promise<void> {
  // Its greeting, or its end, shows whether it has started; only then is the pid useful.
  await process.qmp.negotiate(GREETING_MS_MAX);
  marks.greetedMs = now();
  await process.launched();
  // A machine with `-incoming` does not write into its RAM before a state is loaded.
  await spec.memoryReady;
  ram?.requireSealed();
  // A jail that spares another file would keep holes out of a disk.
  checkDescriptor();
  await plugVolumes(process.qmp, volumes.before);
  const hasDifference = await loadDifference(spec, ram, process);
  await Promise.all([
    state === null ? undefined : loadState(process.qmp, state),
    slot.ready(spec.guestCid),
    // Meanwhile QEMU has mapped it, and runs no guest code yet.
    hasDifference ? undefined : findRam(ram, process),
  ]);
  marks.loadedMs = now();
  await slot.plugReady();
  await plugVolumes(process.qmp, volumes.after);
  if (spec.nic !== undefined) await nic.plugNic(spec.nic);
  const { diskLimits = {} } = spec;
  // A new process has no limits.
  if (hasDiskLimits(diskLimits)) await limitDisks(process.qmp, diskLimits);
  // A snapshot contains the size of its balloon.
  if (spec.balloonMib !== undefined && state === null) {
    await new QemuBalloon(process.qmp, spec.memoryMib).setMemory(spec.memoryMib - spec.balloonMib);
  }
  // A VM that has run without a record would be lost with this process.
  keep();
  await process.qmp.execute('cont');
}

/**
 * Loads the changes that the VM of the snapshot had made to the RAM that the clone maps. @throws VmmError
 * `snapshot_refused`
 */
async function loadDifference(
  { snapshot, memoryMib }: VmSpec,
  ram: PrivateRam | null,
  process: QemuProcess,
): Promise<boolean> {
  if (snapshot?.difference === undefined) return false;
  await using difference = await openDifference(snapshot.difference, memoryMib * MIB);
  await findRam(ram, process);
  await ram?.load(difference);
  return true;
}

async function findRam(ram: PrivateRam | null, { pid }: QemuProcess): Promise<void> {
  ram?.find(pid);
}
