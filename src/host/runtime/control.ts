/** Composes this process's control plane: the core with this runtime's parts and a store. */
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { formatOverlay } from '../../artifacts/image/overlay.ts';
import { CleanupStack } from '../../base/cleanup.ts';
import { systemClock } from '../../base/clock.ts';
import type { MemoryShort } from '../../base/config.ts';
import type { Home } from '../../base/home.ts';
import { newSandboxId } from '../../base/ids.ts';
import type { Log } from '../../base/log.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import type { SharedBudget } from '../../base/request/model-limits.ts';
import { MIB } from '../../base/units.ts';
import { eventPoster } from '../../egress/webhook.ts';
import { dialChannel, readsOnly } from '../../machine/guest/dial.ts';
import { applyDifference } from '../../machine/vmm/difference-file.ts';
import { SandboxError, translateStoreErrors } from '../../sandbox/contract/errors.ts';
import type { OpenVolumes } from '../../sandbox/contract/parts.ts';
import { CloneSizes } from '../../sandbox/memory/clone-size.ts';
import { memoryMarks, reserveMibOf } from '../../sandbox/memory/host-guard.ts';
import { mayMapRam } from '../../sandbox/memory/size.ts';
import type { LeftVms } from '../../sandbox/plane/adoption.ts';
import { LocalControlPlane } from '../../sandbox/plane/control-plane.ts';
import type { Copies } from '../../sandbox/plane/copies.ts';
import { type GuardedHost, MemoryGuard } from '../../sandbox/plane/memory-guard.ts';
import { SnapshotManager, type SnapshotManagerParts } from '../../sandbox/plane/snapshot-manager.ts';
import { openGate, type StartGate } from '../../sandbox/start/start-gate.ts';
import { StartQueue } from '../../sandbox/start/start-queue.ts';
import type { SecretTable } from '../../sandbox/store/secret-table.ts';
import { openStore, type Store } from '../../sandbox/store/store.ts';
import type { VolumeTable } from '../../sandbox/store/volume-table.ts';
import { linkOrCopy } from '../../sys/link-or-copy.ts';
import {
  cloneSparse,
  copyDataInto,
  copyNonZeroInto,
  copyWithoutZeros,
  sealFile,
  unsealInto,
  unsealNew,
} from '../../sys/sparse-threads.ts';
import { availableMib, totalMib } from '../probes/host-memory.ts';
import { RuntimeError } from './errors.ts';
import { isOwnerAlive, ownerJsonOf } from './kept-vms.ts';
import { parseEgress } from './network.ts';
import { Platforms } from './platforms.ts';
import { makeMemory, makeScratch } from './ram/memory.ts';
import type { Runtime } from './runtime.ts';
import { makeWorkspace, processRef } from './workspace.ts';

const COPIES: Copies = {
  keepMemory: copyWithoutZeros,
  fillMemory: copyDataInto,
  holdMemory: copyNonZeroInto,
  cloneDisk: cloneSparse,
  seal: sealFile,
  unsealNew,
  unsealInto,
  linkFile: linkOrCopy,
  makeMemory,
  makeScratch,
  applyDifference,
};

function copiesOf({ driver, ram }: Runtime): Copies {
  if (driver.capabilities.mapsMemory !== true) return COPIES;
  const isHeld = driver.name === 'qemu';
  return {
    ...COPIES,
    mapMemory: (path, sharers, digest) => ram.map({ path, digest }, sharers),
    sharedNeed: (path, sharers, digest) => ram.needOf({ path, digest }, sharers),
    holdsMapped: isHeld,
  };
}

/** A control plane with its store; dispose of it to close both. */
export interface OpenControlPlane extends AsyncDisposable {
  readonly control: LocalControlPlane;
  readonly queue: Pick<StartQueue, 'stats'>;
}

/** How long a base stays between two saves of one template. */
const BASES_KEPT_MS = 10 * 60_000;

export interface ControlPlaneOptions {
  /** Directory of the store. Default: the home's. */
  readonly dataDir?: string | undefined;
  /** False: starts and growth do not wait for free host memory. Default true. */
  readonly waitsForMemory?: boolean | undefined;
  /** Action while the host's memory is short, if starts wait for it. Default: starts only wait. */
  readonly memoryShort?: MemoryShort | undefined;
  /** See `StoreOptions`. Default: 10 minutes. */
  readonly basesKeptMs?: number | undefined;
  /** Decides about starts for the owners of sandboxes. Default: one owner, without limits. */
  readonly gate?: StartGate | undefined;
  /** Whether saves are encrypted. Default: as configured. */
  readonly encrypts?: boolean | undefined;
  /** When the process was lost whose VMs this one takes over, Unix time in ms. Default: unknown. */
  readonly lostAtMs?: number | null | undefined;
  /** Default: those of the store. */
  readonly volumes?: Volumes | undefined;
  /** Default: those of the store. */
  readonly secrets?: Secrets | undefined;
  /** Budgets for models that sandboxes share, as the operator sees them. Default: none. */
  readonly modelBudgets?: (() => readonly SharedBudget[]) | undefined;
}

/**
 * Opens a control plane on a runtime, which the caller closes afterwards.
 * @throws StoreError
 */
export async function openControlPlane(
  runtime: Runtime,
  log: Log,
  options: ControlPlaneOptions = {},
): Promise<OpenControlPlane> {
  const { home, driver } = runtime;
  const { dataDir = join(home.dir, 'data'), waitsForMemory = true } = options;
  // A store in another directory is temporary, and its key is removed with it.
  const keyPath = options.dataDir === undefined ? join(home.dir, 'data.key') : join(dataDir, 'key');
  const { basesKeptMs = BASES_KEPT_MS, gate = openGate, encrypts = runtime.encrypts } = options;
  if (encrypts) requireNoPlainFiles(runtime);
  const store = await openStore({ dir: dataDir, keyPath, clock: systemClock, log, basesKeptMs });
  const { queue, reserveMib, clones } = openQueue(runtime, waitsForMemory);
  const version = await productVersion();
  const storedSecrets = options.secrets ?? store.secrets;
  runtime.network.storedValue = (name) => translateStoreErrors(storedSecrets.value(name));
  const { openVolumes, ...volumes } = volumesOf(options.volumes ?? store.volumes, encrypts);
  try {
    const platforms = await openPlatforms(runtime, options.dataDir === undefined ? dataDir : null, store, log);
    const snapshots = savesOf(runtime, { store, gate, encrypts, platforms });
    const control = await LocalControlPlane.open({
      clock: systemClock,
      log,
      store,
      snapshots,
      ...volumes,
      storedSecrets,
      onSecret: (name) => runtime.network.refreshSecret(name),
      queue,
      accelerator: driver.accelerator,
      gate,
      sizes: {
        canShare: (size) => mayMapRam(driver.capabilities, size),
        expectedMib: (mib) => clones.expectedMib(mib),
      },
      tracer: runtime.tracer,
      describe: () => describeHost(runtime, version, options.modelBudgets?.() ?? []),
      makeSpec: (options) => runtime.makeSpec(options),
      modelUse: (account) => runtime.modelUse(account),
      left: leftVms(runtime, options.lostAtMs ?? null, openVolumes),
      parseEgress,
      supervise: (spec, source, environmentPath, sharers) =>
        runtime.supervise(spec, {
          sharers,
          openVolumes,
          ...(source === null ? {} : 'snapshot' in source ? { template: source } : { disk: source }),
          ...platforms.partsOf(source?.madeFrom),
          ...(environmentPath === undefined ? {} : { linkEnvironment: (to) => linkOrCopy(environmentPath, to) }),
        }),
      resolveImage: (...asked) => runtime.templateSource.resolveImage(...asked),
      openNetwork: () => runtime.network.open(),
      fromNamedTemplate: (name, request) => runtime.templateSource.fromNamedTemplate(name, request),
      templateFor: (options, image, named) => runtime.templateSource.templateFor(options, image, named),
      prepareTemplate: (members) => runtime.templateSource.prepareTemplate(members),
      dial: (channelPath, access) => {
        const guest = dialChannel(channelPath)();
        return access === 'all' ? guest : readsOnly(guest);
      },
      notify: eventPoster({ hosts: runtime.webhookHosts, log }),
      ownerJson: ownerJsonOf(await processRef(process.pid), runtime.kept?.keeper),
      isOwnerAlive: async (json) => await isOwnerAlive(json, runtime.kept?.keeper),
    });
    runtime.onUsage((record) => control.noteUsage(record));
    runtime.metrics.addSharedRam(() => runtime.ram.bytes);
    const policy = waitsForMemory ? options.memoryShort : undefined;
    const guard = policy && openGuard(runtime, control.guarded, queue, { policy, log, reserveMib });
    guard?.start();
    return {
      control,
      queue,
      async [Symbol.asyncDispose]() {
        await guard?.close();
        await control.close();
        platforms.close();
        await store.close();
      },
    };
  } catch (error) {
    await store.close();
    throw error;
  }
}

async function describeHost(
  { driver, upstream, vmmReason, metrics }: Runtime,
  version: string,
  modelBudgets: readonly SharedBudget[],
) {
  return {
    version,
    vmm: driver.description,
    vmmReason,
    memorySharing: driver.memorySharing ?? 'none',
    upstream: upstream.description,
    models: await upstream.offered(),
    memoryAvailableMib: Math.floor(availableMib()),
    modelBudgets,
    longTurns: metrics.turns.list(systemClock.wall()),
  } as const;
}

/** @param dataDir `null`: the store is temporary */
async function openPlatforms(runtime: Runtime, dataDir: string | null, store: Store, log: Log): Promise<Platforms> {
  const platforms = await Platforms.open(dataDir && join(dataDir, 'platforms'), runtime.artifacts, log);
  const { kept } = runtime;
  const running = kept?.ids.flatMap((id) => kept.of(id)?.madeFrom ?? []) ?? [];
  await platforms.collect([...running, ...(await store.snapshots.list())]);
  return platforms;
}

function leftVms(runtime: Runtime, lostAtMs: number | null, openVolumes: VolumeTable['open']): LeftVms | undefined {
  const { kept } = runtime;
  if (kept === null) return undefined;
  return {
    get ids() {
      return kept.ids;
    },
    lostAtMs,
    supervise: (spec, id, sharers) => runtime.superviseKept(spec, id, sharers, openVolumes),
    forget: (id) => kept.forget(id),
    end: (id) => kept.end(id),
  };
}

function savesOf(
  runtime: Runtime,
  { gate, ...parts }: Pick<SnapshotManagerParts, 'store' | 'encrypts' | 'platforms'> & { readonly gate: StartGate },
): SnapshotManager {
  const { artifacts, driver } = runtime;
  return new SnapshotManager({
    ...parts,
    copies: copiesOf(runtime),
    kernelDigest: artifacts.kernelDigest,
    rootImageDigest: artifacts.rootImageDigest,
    machineOf: (size) => driver.machineOf?.(size) ?? 'none',
    ownerOf: (annotations) => gate.ownerOf(annotations),
  });
}

function volumesOf(volumes: Volumes, encrypts: boolean) {
  const requirePlain = (): void => {
    if (!encrypts) return;
    throw new SandboxError('volumes_unavailable', 'volumes are not encrypted, and NEUROVISOR_ENCRYPT is set', {
      remedy: 'omit them; or put the home on an encrypted disk and unset NEUROVISOR_ENCRYPT',
    });
  };
  return {
    volumes,
    formatVolume: async (path: string, sizeBytes: number): Promise<void> => {
      requirePlain();
      await formatOverlay(path, sizeBytes, true);
    },
    openVolumes: async (...asked: Parameters<Volumes['open']>): Promise<OpenVolumes> => {
      requirePlain();
      return await translateStoreErrors(volumes.open(...asked));
    },
  };
}

/** Firecracker keeps RAM and states of VMs in plain files beside them. @throws RuntimeError `encryption_unavailable` */
function requireNoPlainFiles({ driver }: Runtime): void {
  if (driver.name !== 'firecracker') return;
  throw new RuntimeError('encryption_unavailable', 'pauses of VMs in Firecracker can not be encrypted', {
    remedy: 'Set NEUROVISOR_VMM=qemu, or unset NEUROVISOR_ENCRYPT.',
  });
}

/** The queue of starts, with what it knows of the host's memory. */
function openQueue(runtime: Runtime, waitsForMemory: boolean) {
  const allMib = Math.floor(totalMib());
  const reserveMib = reserveMibOf(allMib);
  const clones = new CloneSizes(systemClock, () => runtime.metrics.sharingVms());
  const queue = new StartQueue({
    concurrency: availableParallelism(),
    totalMib: waitsForMemory ? allMib : Number.POSITIVE_INFINITY,
    reserveMib,
    availableMib: waitsForMemory
      ? () => Math.floor(availableMib() - clones.pendingMib() - runtime.ram.pendingBytes / MIB)
      : () => Number.POSITIVE_INFINITY,
    clock: systemClock,
  });
  return { queue, reserveMib, clones };
}

function openGuard(
  { ram }: Runtime,
  host: GuardedHost,
  queue: StartQueue,
  { policy, log, reserveMib }: { readonly policy: MemoryShort; readonly log: Log; readonly reserveMib: number },
): MemoryGuard {
  return new MemoryGuard({
    clock: systemClock,
    log,
    host,
    queue,
    policy,
    marks: memoryMarks(reserveMib),
    availableMib,
    sharedRam: ram,
  });
}

/**
 * A control plane for one command: it leaves nothing behind, and has the host's memory to itself. The next start
 * reclaims the store of a killed process as it reclaims a sandbox's directory.
 * @throws StoreError
 */
export async function openTemporaryControlPlane(runtime: Runtime, log: Log): Promise<OpenControlPlane> {
  const cleanup = new CleanupStack();
  try {
    const { dir, remove } = await makeWorkspace(runtime.home.runDir, newSandboxId());
    cleanup.push('store of the run', remove);
    const dataDir = join(dir, 'data');
    const { close, ...kept } = homeTables(runtime.home, log);
    cleanup.push('store of the home', close);
    const opened = await openControlPlane(runtime, log, { dataDir, ...kept, waitsForMemory: false });
    cleanup.push('control plane', () => opened[Symbol.asyncDispose]());
    return { ...opened, [Symbol.asyncDispose]: () => cleanup.run() };
  } catch (error) {
    await cleanup.run();
    throw error;
  }
}

type Volumes = Pick<VolumeTable, 'create' | 'list' | 'remove' | 'open'>;

type Secrets = Pick<SecretTable, 'set' | 'list' | 'value' | 'remove'>;

/** Opens the store at the first use: few runs have volumes or stored secrets. */
function homeTables(
  { dir }: Home,
  log: Log,
): { readonly volumes: Volumes; readonly secrets: Secrets; close(): Promise<void> } {
  let opening: Promise<Store> | undefined;
  const store = (): Promise<Store> => {
    opening ??= openStore({ dir: join(dir, 'data'), keyPath: join(dir, 'data.key'), clock: systemClock, log });
    return opening;
  };
  return {
    volumes: {
      create: async (...asked) => (await store()).volumes.create(...asked),
      list: async () => (await store()).volumes.list(),
      remove: async (name) => (await store()).volumes.remove(name),
      open: async (...asked) => (await store()).volumes.open(...asked),
    },
    secrets: {
      set: async (...asked) => (await store()).secrets.set(...asked),
      list: async () => (await store()).secrets.list(),
      value: async (name) => (await store()).secrets.value(name),
      remove: async (name) => (await store()).secrets.remove(name),
    },
    close: async () => (await opening)?.close(),
  };
}

async function productVersion(): Promise<string> {
  const text = await readFile(join(PACKAGE_DIR, 'package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
