/**
 * Firecracker as a driver, on KVM.
 *
 *     start ── a place ── spawn ── API answers ─┬─ machine, drives, vsock, NIC ─ InstanceStart ─┬─► guest code runs
 *                                               └─ snapshot/load, with overrides ───────────────┘
 *
 * Nothing is plugged into a running VM: a clone, too, gets its identity at the start. RAM is always private to the
 * process: a snapshot's RAM is mapped copy-on-write. `versions.ts` has the differences between versions.
 */

import { readFile, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus } from 'node:os';
import { CleanupStack } from '../../../base/cleanup.ts';
import type { Clock } from '../../../base/clock.ts';
import type { Log } from '../../../base/log.ts';
import { makeFifo } from '../../../sys/fifo.ts';
import type { MachineSize, NicLender, NicSpec, Vm, VmmDriver, VmSpec } from '../driver.ts';
import { VmmError } from '../errors.ts';
import { explainKvm } from '../kvm-device.ts';
import { releaseAll } from '../process-vm.ts';
import { checkMemoryFile, loadRefused, readSnapshot } from '../snapshot.ts';
import { checkFiles, checkSpec } from '../spec.ts';
import { explainFailure, throwIfCancelled, unlessCancelled } from '../starting.ts';
import { adoptProcess } from './adopt.ts';
import { type ApiCall, ApiClient, FirecrackerApiError } from './api-client.ts';
import { FirecrackerBalloon } from './balloon.ts';
import type { ChannelRelay } from './channel/relay.ts';
import { RelayHost } from './channel/relay-host.ts';
import type { StartRelayThread } from './channel/relay-thread.ts';
import {
  bootCalls,
  CPUS_MAX,
  type DeviceLimits,
  diskLimit,
  diskLimitCalls,
  FILES,
  furtherDisk,
  loadCall,
  MEMORY_FD,
  type NicPlan,
  nicCall,
  START_CALL,
} from './config.ts';
import { findBinary, readFirecrackerVersion } from './installation.ts';
import { checkConfinement } from './jail/confinement.ts';
import type { JailSpec } from './jail/jailer.ts';
import { makeJailPlace } from './jail/place.ts';
import { makeUserPlace, type UserJailSpec } from './jail/user-place.ts';
import { makeDirectPlace, type Place } from './place.ts';
import { FirecrackerProcess } from './process/process.ts';
import { awaitApi } from './process/readiness.ts';
import { type SpawnVmm, spawnVmm } from './process/spawn.ts';
import { withoutMark } from './snapshot/card.ts';
import { Snapshots } from './snapshot/snapshots.ts';
import { type FirecrackerVersion, type Quirks, quirksOf } from './versions.ts';
import { FirecrackerVm, type FirecrackerVmOptions } from './vm.ts';

export interface FirecrackerDriverOptions {
  /** Name in PATH or absolute path. */
  readonly binary: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Starts the process. Default: directly. */
  readonly spawn?: SpawnVmm;
  /** Compiled filters for Firecracker's threads, in the format of its version. Default: its own. */
  readonly seccompFilterPath?: string;
  /** The jail of each VM, by Firecracker's jailer as root, or as an ordinary user. Default: none. */
  readonly jail?: (spec: VmSpec) => VmJail | Promise<VmJail>;
  /** Kills a VM if one of its threads has no seccomp filter; always on in a jail. */
  readonly requiresFilter?: boolean;
  readonly limits?: DeviceLimits;
  /** For tests. */
  readonly kvmDevice?: string;
  /** False: each clone gets a copy of the RAM. Default: clones map it. */
  readonly mapsMemory?: boolean;
  readonly tracksDirtyPages?: boolean;
  /** Starts the thread that relays the channels of all VMs; for tests. */
  readonly startRelays?: StartRelayThread;
}

type VmJail = JailSpec | UserJailSpec;

export interface FirecrackerDriver extends VmmDriver {
  /**
   * Takes over a jailed VM whose owner was killed; it is as it was left, running or paused.
   * @param spec its original spec; its listeners must exist again
   * @throws VmmError `vm_gone`, `vm_unsupported`, `vmm_timeout`
   */
  adopt(spec: VmSpec): Promise<Vm>;
  close(): Promise<void>;
}

/** @throws VmmError `vmm_missing` if the binary can't be used */
export async function createFirecrackerDriver(options: FirecrackerDriverOptions): Promise<FirecrackerDriver> {
  const { binary, log } = options;
  const version = await readFirecrackerVersion(binary);
  const quirks = quirksOf(version);
  const relays = new RelayHost(log, options.clock, options.startRelays);
  const known = { ...options, version, quirks, relays, path: await findBinary(binary) };
  return {
    name: 'firecracker',
    description: `Firecracker ${version.text} (KVM)`,
    accelerator: 'kvm',
    capabilities: {
      ...(options.mapsMemory === false ? {} : { mapsMemory: true, mapsMemoryWithBalloon: true }),
      hotplugNic: false,
      channelLimits: true,
    },
    machineOf: (size) => machineOf(version, size),
    start: (spec, signal) => start(known, spec, signal),
    adopt: (spec) => adopt(known, spec),
    close: () => relays.close(),
  };
}

interface Known extends FirecrackerDriverOptions {
  readonly version: FirecrackerVersion;
  readonly quirks: Quirks;
  readonly path: string;
  readonly relays: RelayHost;
}

async function start(known: Known, spec: VmSpec, signal: AbortSignal | undefined): Promise<Vm> {
  const began = known.clock.now();
  checkSpec(spec, Math.min(availableParallelism(), CPUS_MAX));
  await checkFiles(spec);
  refuseUnsupported(spec);
  if (known.jail === undefined && known.spawn === undefined) await checkTap(spec);
  const machine = machineOf(known.version, spec);
  const state =
    spec.snapshot === undefined
      ? null
      : withoutMark(await readSnapshot(spec.snapshot, machine), spec.nic !== undefined);
  if (spec.snapshot?.memoryPath !== undefined) {
    await checkMemoryFile(spec.snapshot.memoryPath, spec.memoryMib);
  }
  throwIfCancelled(signal);
  const cleanup = new CleanupStack();
  const release = (): Promise<void> => releaseAll(cleanup, known.log, spec.id);
  let process: FirecrackerProcess | undefined;
  try {
    const jail = await known.jail?.(spec);
    if (jail?.release !== undefined) cleanup.push('jail', jail.release);
    const relay = makeRelay(known, spec, cleanup);
    await relay.prepare();
    const inner = { ...spec, channelPath: relay.innerPath };
    const place = await makePlace(known, inner, jail);
    cleanup.push('directory of Firecracker', () => place.release());
    await furnish(known, place, spec, state);
    throwIfCancelled(signal);
    const started = spawnFirecracker(known, place, spec, jail);
    process = started;
    cleanup.push('Firecracker process', () => started.kill());
    const spawnedMs = known.clock.now() - began;
    const user = jail === undefined ? null : { uid: jail.uid, gid: jail.gid };
    const bringing = bringUp(known, started, place, { spec: inner, user });
    await unlessCancelled(orBroken(bringing, relay), signal);
    await relay.connect();
    if (jail !== undefined || known.requiresFilter === true) {
      checkConfinement(started.pid ?? 0, jail ?? null);
    }
    const timings = { spawnedMs, runningMs: known.clock.now() - began };
    const parts = { place, relay, process: started, timings, release, limitVmm: jail?.limitDisks };
    return makeVm(known, spec, parts);
  } catch (error) {
    const failure = await explainKvm(await explainFailure(error, process, known.clock), known.kvmDevice);
    await release();
    throw failure;
  }
}

/** @throws VmmError as `adoptProcess` does */
async function adopt(known: Known, spec: VmSpec): Promise<Vm> {
  checkSpec(spec, Math.min(availableParallelism(), CPUS_MAX));
  const jail = await known.jail?.(spec);
  if (jail === undefined || !isJailers(jail)) {
    await jail?.release?.();
    throw new VmmError('vm_unsupported', `the VM ${spec.id} can't be adopted`, {
      cause: "only a VM in Firecracker's own jailer outlives its owner",
    });
  }
  const cleanup = new CleanupStack();
  if (jail.release !== undefined) cleanup.push('jail', jail.release);
  const release = (): Promise<void> => releaseAll(cleanup, known.log, spec.id);
  try {
    const relay = makeRelay(known, spec, cleanup);
    const inner = { ...spec, channelPath: relay.innerPath };
    const prepare = (): Promise<void> => relay.prepare();
    const { place, process } = await adoptProcess(inner, known.path, jail, known.clock, prepare);
    cleanup.push('directory of Firecracker', () => place.release());
    cleanup.push('Firecracker process', () => process.kill());
    await relay.connect();
    const timings = { spawnedMs: 0, runningMs: 0 };
    const parts = { place, relay, process, timings, release, limitVmm: jail.limitDisks };
    return makeVm(known, spec, { ...parts, isAdopted: true });
  } catch (error) {
    await release();
    throw error;
  }
}

function isJailers(jail: VmJail): jail is JailSpec {
  return 'jailer' in jail;
}

function makePlace(known: Known, spec: VmSpec, jail: VmJail | undefined): Promise<Place> {
  if (jail === undefined) return makeDirectPlace(spec, known.binary);
  return isJailers(jail) ? makeJailPlace(spec, known.path, jail) : makeUserPlace(spec, jail);
}

/** `prepare` removes what an earlier relay left behind. */
function makeRelay(
  { relays }: Known,
  { channelPath, channelLimits = {} }: VmSpec,
  cleanup: CleanupStack,
): ChannelRelay {
  const relay = relays.open(channelPath, channelLimits);
  cleanup.push('channel', () => relay.close());
  return relay;
}

/** Settles as `work` does, unless the relay fails first. */
function orBroken(work: Promise<void>, relay: ChannelRelay): Promise<void> {
  const failed = relay.broken.then((cause) => {
    throw new VmmError('vmm_start_failed', 'the VM could not be started', { cause });
  });
  return Promise.race([work, failed]);
}

function makeVm(
  known: Known,
  spec: VmSpec,
  parts: Pick<FirecrackerVmOptions, 'relay' | 'process' | 'timings' | 'release' | 'limitVmm'> & {
    readonly place: Place;
    readonly isAdopted?: boolean;
  },
): FirecrackerVm {
  const { quirks, clock, tracksDirtyPages = false } = known;
  const { id, channelPath, memoryMib, balloonMib, memoryFd, nic, disks = [] } = spec;
  const { place, process, isAdopted = false } = parts;
  const machine = machineOf(known.version, spec);
  return new FirecrackerVm({
    id,
    channelPath,
    clock,
    ...parts,
    disks,
    balloon: balloonMib === undefined ? undefined : new FirecrackerBalloon(process.api, memoryMib),
    snapshots: new Snapshots({
      api: process.api,
      place,
      quirks,
      machine,
      memoryMib,
      memoryFd,
      tracksDirtyPages,
      hasNic: nic !== undefined,
      isAdopted,
    }),
  });
}

/** As root, Firecracker would create a missing TAP. */
async function checkTap({ nic }: VmSpec): Promise<void> {
  if (nic?.tapName === undefined) return;
  const names = (await readFile('/proc/net/dev', 'latin1')).split('\n').map((line) => line.split(':')[0]?.trim());
  if (names.includes(nic.tapName)) return;
  throw new VmmError('vm_spec_invalid', "the VM's nic can't be used", {
    cause: `there is no interface ${nic.tapName}`,
  });
}

function refuseUnsupported(spec: VmSpec): void {
  const refuse = (what: string): never => {
    throw new VmmError('vm_unsupported', `Firecracker can't start the VM`, {
      cause: what,
      remedy: 'Use QEMU: set NEUROVISOR_VMM=qemu.',
    });
  };
  if (spec.nic !== undefined && spec.nic.tapName === undefined && spec.nic.lend === undefined) {
    refuse('a network card needs a named or lent TAP');
  }
}

async function furnish({ seccompFilterPath }: Known, place: Place, spec: VmSpec, state: Buffer | null): Promise<void> {
  for (const pipe of [FILES.log, FILES.metrics]) {
    makeFifo(place.path(pipe));
    await place.give(pipe);
  }
  if (seccompFilterPath !== undefined) {
    await place.provide(FILES.filter, seccompFilterPath, 'read');
  }
  await place.provide(FILES.root, spec.rootImagePath, 'read');
  await place.provide(FILES.overlay, spec.overlayPath, 'write');
  for (const [index, { path, access }] of (spec.disks ?? []).entries()) {
    await place.provide(furtherDisk(index), path, access);
  }
  const { snapshot } = spec;
  if (state === null || snapshot === undefined) {
    await place.provide(FILES.kernel, spec.kernelPath, 'read');
    return;
  }
  // Exactly the verified bytes.
  await writeFile(place.path(FILES.state), state, { flag: 'wx', mode: 0o600 });
  await place.give(FILES.state);
  const { memoryPath } = snapshot;
  if (memoryPath !== undefined) await place.provide(FILES.memory, memoryPath, 'read');
}

function spawnFirecracker(known: Known, place: Place, spec: VmSpec, jail: VmJail | undefined): FirecrackerProcess {
  const { seccompFilterPath } = known;
  const interactive = spec.console === 'interactive';
  const args = [
    ['--api-sock', FILES.api],
    ['--log-path', FILES.log, '--level', 'Info', '--metrics-path', FILES.metrics],
    ...(seccompFilterPath === undefined ? [] : ['--seccomp-filter', FILES.filter]),
  ].flat();
  const run = known.spawn ?? spawnVmm;
  // The jailer would close the memory.
  const isJailed = jail !== undefined && isJailers(jail);
  return new FirecrackerProcess({
    spawn: (stdio) => {
      if (spec.memoryFd !== undefined && !isJailed) stdio[MEMORY_FD] = spec.memoryFd;
      return place.start?.(args, stdio) ?? run(place.argv(args), stdio);
    },
    api: new ApiClient(() => place.apiPath(), known.clock),
    pipes: {
      logPath: place.path(FILES.log),
      metricsPath: place.path(FILES.metrics),
      inputPath: place.path(FILES.input),
    },
    clock: known.clock,
    interactive,
    isWrapped: isJailed ? jail.wrapper !== undefined : jail !== undefined,
  });
}

async function bringUp(
  known: Known,
  process: FirecrackerProcess,
  place: Place,
  { spec, user }: { spec: VmSpec; user: Parameters<NicLender>[0]['user'] },
): Promise<void> {
  const { api } = process;
  const { tracksDirtyPages = false } = known;
  await place.admitted?.();
  await awaitApi(api, process.exited, known.clock);
  process.settle();
  const { channelName } = place;
  const withTap = (open: (nic: NicPlan | undefined) => Promise<void>): Promise<void> =>
    withTapOf(spec.nic, { pid: process.pid ?? 0, user }, open);
  await spec.memoryReady;
  if (spec.snapshot !== undefined) {
    if (spec.snapshot.memoryPath === undefined && spec.memoryFd !== undefined) {
      await place.lendMemory(spec.memoryFd);
    }
    await withTap((nic) => load(api, loadCall({ channelName, nic, tracksDirtyPages })));
    // The state contains its VM's limits, which apply only in the guest's first milliseconds.
    await setDiskLimits(api, spec);
    await place.connectChannel();
    return;
  }
  const { cpus: count, memoryMib, balloonMib, guestCid, bootArgs = [] } = spec;
  const { diskLimits, disks = [] } = spec;
  const disk = diskLimits === undefined ? {} : { disk: diskLimit(diskLimits) };
  const limits = { ...known.limits, ...disk };
  const calls = bootCalls({
    cpus: count,
    memoryMib,
    guestCid,
    bootArgs,
    channelName,
    limits,
    disks,
    balloonMib,
    tracksDirtyPages,
  });
  for (const call of calls) await api.call(call);
  await withTap(async (nic) => {
    if (nic !== undefined) await api.call(nicCall(nic, limits));
  });
  await place.connectChannel();
  await api.call(START_CALL);
}

async function setDiskLimits(api: ApiClient, { diskLimits, disks }: VmSpec): Promise<void> {
  if (diskLimits === undefined) return;
  for (const call of diskLimitCalls(diskLimits, disks)) await api.call(call);
}

/** Reports a refusal as final: Firecracker would refuse again, and ends. */
async function load(api: ApiClient, call: ApiCall): Promise<void> {
  try {
    await api.call(call);
  } catch (error) {
    const isRefused = error instanceof FirecrackerApiError && error.status !== null;
    throw isRefused ? loadRefused(error) : error;
  }
}

/** @param open makes Firecracker open the TAP, if any */
async function withTapOf(
  nic: NicSpec | undefined,
  vmm: Parameters<NicLender>[0],
  open: (nic: NicPlan | undefined) => Promise<void>,
): Promise<void> {
  const { mac = '', tapName, lend } = nic ?? {};
  if (tapName !== undefined) await open({ tapName, mac });
  else if (lend !== undefined) await lend(vmm, (name) => open({ tapName: name, mac }));
  else await open(undefined);
}

/** A guest keeps the features of the processor that it was booted on. */
function machineOf(version: FirecrackerVersion, size: MachineSize): string {
  const { cpus: count, memoryMib, balloonMib, disks = [] } = size;
  const balloon = balloonMib === undefined ? '' : ', balloon';
  const further = disks.length === 0 ? '' : `, disks ${disks.map((one) => one.access).join(' ')}`;
  const processor = cpus()[0]?.model.trim() ?? 'unknown';
  return `Firecracker ${version.text}, ${processor}, ${count} CPUs, ${memoryMib} MiB${balloon}${further}`;
}
