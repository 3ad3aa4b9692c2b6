/**
 * A host of sandboxes without VMs: the real control plane, queue, pools, supervisors and store, on a fake
 * world whose every phase a test may hold, fail or make deadly, and which counts resources in use.
 *
 *     LocalControlPlane ── Supervisor ── FakeVm, FakeGuest ── a small file as RAM
 *            └── SnapshotManager ── Store (SQLite and files, in a directory of its own)
 */
import { rmSync, writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { FakeClock } from '../../src/base/clock.ts';
import { type Log, silentLog } from '../../src/base/log.ts';
import type { Tracer } from '../../src/base/trace/trace.ts';
import type { DestinationUse } from '../../src/egress/net/policy/destination-budgets.ts';
import { parseEgress } from '../../src/host/runtime/network.ts';
import type { GuestIdentity } from '../../src/machine/guest/identity.ts';
import type { SandboxStatus } from '../../src/sandbox/contract/control.ts';
import type { EnvironmentSource } from '../../src/sandbox/contract/environment.ts';
import { translateStoreErrors } from '../../src/sandbox/contract/errors.ts';
import type { NetworkSpec } from '../../src/sandbox/contract/network-spec.ts';
import type {
  CardLease,
  GuestMemory,
  MadeFrom,
  PlatformTable,
  SandboxParts,
} from '../../src/sandbox/contract/parts.ts';
import { makeSpec } from '../../src/sandbox/contract/spec.ts';
import type { LeftVms } from '../../src/sandbox/plane/adoption.ts';
import { type ControlParts, LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import type { Copies } from '../../src/sandbox/plane/copies.ts';
import { SnapshotManager } from '../../src/sandbox/plane/snapshot-manager.ts';
import type { OpenTemplate } from '../../src/sandbox/start/pools.ts';
import type { StartGate } from '../../src/sandbox/start/start-gate.ts';
import { StartQueue } from '../../src/sandbox/start/start-queue.ts';
import type { StartSizes } from '../../src/sandbox/start/starter.ts';
import { openStore, type Store } from '../../src/sandbox/store/store.ts';
import type { SameFile } from '../../src/sandbox/store/volume-table.ts';
import { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { CountingClock } from './counting-clock.ts';
import { type FakeSharing, fakeCopies } from './fake-copies.ts';
import { FakeHostMemory } from './fake-host-memory.ts';
import { FakeModels } from './fake-models.ts';
import { fakeSandboxParts } from './fake-sandbox-parts.ts';
import { Script } from './fake-script.ts';
import { fromNamed, noImage, withImage } from './fake-template.ts';
import { FAKE_MACHINE, type FakeGuest, type FakeVm, type Holdings, sha256 } from './fake-vm.ts';

export interface FakeHostOptions {
  /** Directory of the store. Default: its own, removed with the host. */
  readonly dataDir?: string;
  /** Its name as an owner of rows. */
  readonly owner?: string;
  /** Answers for other owners. */
  readonly isOwnerAlive?: (owner: string) => Promise<boolean>;
  /** Default 4. */
  readonly concurrency?: number;
  /** Default: more than enough. */
  readonly availableMib?: () => number;
  readonly tracer?: Tracer;
  /** Decides about starts. */
  readonly gate?: StartGate;
  /** Expected memory of starts. Default: their whole size. */
  readonly sizes?: StartSizes;
  /** Its VMs map the RAM that they start from. */
  readonly mapsMemory?: FakeSharing;
  /** Memory that VMs that map RAM may have to add. */
  readonly sharedNeed?: Copies['sharedNeed'];
  readonly warn?: Log['warn'];
  /** See `SnapshotManagerParts`. */
  readonly encrypts?: boolean;
  readonly rootImageDigest?: string;
  /** Images of versions before that it still has. Default: none. */
  readonly olderImages?: readonly string[];
  /** Its images, by name. */
  readonly images?: Readonly<Record<string, EnvironmentSource>>;
  /** Called with each image that is resolved. */
  readonly pulls?: (image: string, mayLogIn: (host: string) => boolean) => void;
  /** Ids of VMs of a killed host that still run; each `adopt` starts a VM in its place. */
  readonly left?: readonly string[];
  readonly onSecret?: (name: string) => Promise<void>;
  /** The descriptors that their VMMs have of volumes. Default: none. */
  readonly keptFile?: SameFile;
  /** What they were booted from, if not what this host has. */
  readonly madeFrom?: MadeFrom;
  /** Called with each sandbox before it starts. */
  readonly watch?: (sandbox: Supervisor) => void;
}

const notKept: SameFile = () => {
  throw new Error('it has not opened a file that it should have');
};

const TEMPLATE_KEY = 'template';
const TEMPLATE_STATE = 'state of the template';
/** Step of `passTime`; less than any limit. */
const TIME_STEP_MS = 100;
const TOTAL_MIB = 65_536;

export class FakeHost implements Holdings, AsyncDisposable {
  readonly models = new FakeModels();
  readonly script = new Script();
  /** Identities of all VMs' guests, in order. */
  readonly identities: GuestIdentity[] = [];
  readonly leased: NetworkSpec[] = [];
  /** Bytes used of every network's budget. */
  bytesUsed = 0;
  destinations: readonly DestinationUse[] = [];
  /** The authority that guests with a network should trust, from the next start or change on. */
  trust: CardLease['trust'];
  readonly clock = new CountingClock();
  readonly queue: StartQueue;
  readonly dataDir: string;
  #control: LocalControlPlane | undefined;
  /** Of RAM and running VMs. */
  readonly dir: string;
  readonly sharing: FakeSharing;
  readonly #sharedNeed: Copies['sharedNeed'];
  readonly #store: Store;
  readonly #held = new Map<string, Set<object>>();
  readonly #vms = new Map<string, FakeVm>();
  readonly #rejections: unknown[] = [];
  readonly #note = (error: unknown): void => void this.#rejections.push(error);
  #made = 0;
  /** Memory events of the host's kernel about its VMMs. */
  readonly memory = new FakeHostMemory();
  /** Webhook posts of its policies. */
  readonly posted: { readonly url: string; readonly event: object }[] = [];
  /** VMs of `left` that it ended. */
  readonly endedLeft: string[] = [];
  /** Number of VMs started since it was opened. */
  started = 0;

  static async open(options: FakeHostOptions = {}): Promise<FakeHost> {
    const dir = await mkdtemp(join(tmpdir(), 'nv-fake-host-'));
    for (const name of ['ram', 'run']) await mkdir(join(dir, name));
    await writeFile(join(dir, 'state'), TEMPLATE_STATE);
    const host = new FakeHost(dir, options, await openFor(dir, options));
    host.#control = await LocalControlPlane.open(host.#controlParts(options));
    return host;
  }

  private constructor(dir: string, options: FakeHostOptions, opened: OpenedStore) {
    this.dir = dir;
    this.sharing = options.mapsMemory ?? false;
    this.#sharedNeed = options.sharedNeed;
    this.#store = opened.store;
    this.dataDir = opened.dataDir;
    this.queue = new StartQueue({
      concurrency: options.concurrency ?? 4,
      totalMib: TOTAL_MIB,
      availableMib: options.availableMib ?? (() => TOTAL_MIB),
      clock: this.clock,
    });
    process.on('unhandledRejection', this.#note);
  }

  add(kind: string, what: object): void {
    const set = this.#held.get(kind) ?? new Set();
    this.#held.set(kind, set.add(what));
  }

  delete(kind: string, what: object): void {
    this.#held.get(kind)?.delete(what);
  }

  /** Resources in use, by kind; kinds without any are omitted. */
  async holdings(): Promise<Readonly<Record<string, number>>> {
    const counts = [...this.#held].map(([kind, set]) => [kind, set.size] as const);
    const { running, waiting, waitingLow, reservedMib } = this.queue.stats();
    const files = await Promise.all(['ram', 'run'].map(async (name) => (await readdir(join(this.dir, name))).length));
    return Object.fromEntries(
      [
        ...counts,
        ['timers', this.clock.timers] as const,
        ['starts', running + waiting + waitingLow + reservedMib] as const,
        ['files of VMs', files.reduce((a, b) => a + b, 0)] as const,
      ].filter(([, count]) => count > 0),
    );
  }

  /** Numbers of stored files, by directory. */
  async stored(): Promise<{ files: number; staged: number; trash: number; snapshots: number }> {
    const names = async (name: string): Promise<readonly string[]> =>
      await readdir(join(this.dataDir, name), { recursive: true });
    // The directories of processes themselves stay.
    const staged = (await names('staging')).filter((path) => path.includes('/')).length;
    return {
      staged,
      files: (await names('files')).length,
      trash: (await names('trash')).length,
      snapshots: (await this.store.snapshots.list()).length,
    };
  }

  get control(): LocalControlPlane {
    if (this.#control === undefined) throw new Error('the host is not open');
    return this.#control;
  }

  get store(): Store {
    return this.#store;
  }

  get rejections(): readonly unknown[] {
    return this.#rejections;
  }

  /** @throws if the sandbox has no live VM */
  vm(id: string): FakeVm {
    const vm = this.#vms.get(id);
    if (vm === undefined) throw new Error(`sandbox ${id} has no VM`);
    return vm;
  }

  vms(): readonly FakeVm[] {
    return [...this.#vms.values()];
  }

  /** Of a started VM, until it exits. */
  keep(vm: FakeVm): void {
    this.started += 1;
    this.#vms.set(vm.id, vm);
    void vm.exited.then(() => {
      if (this.#vms.get(vm.id) === vm) this.#vms.delete(vm.id);
    });
  }

  /** Another one at each call, for descriptors and addresses. */
  nextNumber(): number {
    this.#made += 1;
    return this.#made;
  }

  /** Simulates a little traffic on its channel. */
  carry(id: string): void {
    this.vm(id).traffic += 1;
  }

  async guest(id: string): Promise<FakeGuest> {
    return (await this.control.guest(id)) as unknown as FakeGuest;
  }

  /** Resolves at the next change to this status. */
  async became(id: string, status: SandboxStatus): Promise<void> {
    const reached = Promise.withResolvers<void>();
    const stop = this.control.onChange((info) => {
      if (info.id === id && info.status === status) reached.resolve();
    });
    await reached.promise;
    stop();
  }

  /** Lets time pass in small steps until the promise settles. */
  async passTime(until: Promise<unknown>): Promise<void> {
    let isOver = false;
    const done = until.finally(() => {
      isOver = true;
    });
    while (!isOver) {
      await new Promise((resolve) => setImmediate(resolve));
      this.clock.advance(TIME_STEP_MS);
    }
    await done;
  }

  /** Ends the host, but leaves its rows unchanged, like a killed process. */
  async kill(): Promise<void> {
    await this.#store.close();
    await this.#leave();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.control.close();
    await this.#store.close();
    await this.#leave();
  }

  async #leave(): Promise<void> {
    // Node reports rejections of this turn after it.
    await new Promise((resolve) => setImmediate(resolve));
    process.off('unhandledRejection', this.#note);
    await rm(this.dir, { recursive: true, force: true });
    if (this.#rejections.length > 0) {
      throw new AggregateError(this.#rejections, 'unhandled rejections');
    }
  }

  #leftVms(all: readonly string[], { madeFrom, keptFile = notKept }: FakeHostOptions): LeftVms {
    const left = new Set(all);
    return {
      get ids() {
        return [...left];
      },
      lostAtMs: this.clock.wall(),
      supervise: (spec, _id, sharers) => {
        const parts = fakeSandboxParts(this, spec, { source: null, environmentPath: undefined });
        const openVolumes: SandboxParts['openVolumes'] = (...of) =>
          translateStoreErrors(this.#store.volumes.open(...of, keptFile));
        return new Supervisor(spec, { ...parts, sharers, openVolumes, ...(madeFrom && { madeFrom }) });
      },
      forget: (id) => void left.delete(id),
      end: async (id) => {
        if (left.delete(id)) this.endedLeft.push(id);
        await this.script.step('end-left');
      },
    };
  }

  #controlParts(options: FakeHostOptions): ControlParts {
    const { clock, queue, script } = this;
    const store = this.#scripted(this.#store);
    let template = this.#template();
    return {
      clock,
      queue,
      gate: options.gate,
      sizes: options.sizes,
      store,
      log: { ...silentLog, warn: options.warn ?? silentLog.warn },
      volumes: this.#store.volumes,
      storedSecrets: this.#store.secrets,
      onSecret: options.onSecret,
      formatVolume: async (path, bytes) => {
        await script.step('overlay');
        await writeFile(path, '');
        await truncate(path, bytes);
      },
      accelerator: 'fake',
      tracer: options.tracer,
      snapshots: new SnapshotManager({
        store,
        copies: this.#copies(),
        kernelDigest: 'kernel',
        rootImageDigest: options.rootImageDigest ?? 'image',
        ...(options.olderImages && { platforms: platformsOf(options.rootImageDigest, options.olderImages) }),
        machineOf: () => FAKE_MACHINE,
        ownerOf: (annotations) => options.gate?.ownerOf(annotations) ?? 'local',
        encrypts: options.encrypts ?? false,
      }),
      describe: async () => ({
        version: '0',
        vmm: 'fake',
        vmmReason: 'as configured',
        memorySharing: 'none',
        upstream: 'none',
        models: null,
        memoryAvailableMib: 1,
        modelBudgets: [],
        longTurns: [],
      }),
      makeSpec: (wanted) => makeSpec(wanted, 8, parseEgress),
      modelUse: (account) => this.models.use.get(account) ?? null,
      parseEgress,
      openNetwork: () => script.step('network'),
      supervise: (spec, source, path, sharers) => {
        const { tracer } = options;
        const openVolumes: SandboxParts['openVolumes'] = (id, wanted) =>
          translateStoreErrors(this.#store.volumes.open(id, wanted));
        const made = fakeSandboxParts(this, spec, { source, environmentPath: path });
        const { madeFrom } = source ?? {};
        const parts = { ...made, sharers, tracer, openVolumes, ...(madeFrom && { madeFrom }) };
        const supervisor = new Supervisor(spec, parts);
        options.watch?.(supervisor);
        return supervisor;
      },
      left: options.left && this.#leftVms(options.left, options),
      resolveImage: async (name, _signal, mayLogIn) => {
        await script.step('image');
        options.pulls?.(name, mayLogIn);
        const image = options.images?.[name];
        if (image !== undefined) return image;
        throw noImage(name);
      },
      fromNamedTemplate: async (name, request) => {
        await script.step('named-template');
        return await fromNamed(template)(name, request);
      },
      templateFor: async (_options, image) => {
        await script.step('template');
        return image === undefined ? template : withImage(template, image);
      },
      prepareTemplate: async ({ card = false, image: name = '' }) => {
        const image = options.images?.[name];
        if (image !== undefined) return withImage(template, image);
        if (card) template = { ...template, spec: { ...template.spec, card } };
        return template;
      },
      dial: () => new PassThrough(),
      notify: async (url, event) => void this.posted.push({ url, event }),
      ownerJson: JSON.stringify(options.owner ?? 'one'),
      isOwnerAlive: async (json) => (await options.isOwnerAlive?.(JSON.parse(json) as string)) ?? false,
    };
  }

  #template(): OpenTemplate {
    const statePath = join(this.dir, 'state');
    const { mapMemory, sharedNeed } = this.#copies();
    const ramPath = join(this.dir, 'template-ram');
    writeFileSync(ramPath, 'of the template');
    return {
      key: TEMPLATE_KEY,
      spec: { cpus: 1, memoryMib: 512, diskMib: 2048, warm: [] },
      warm: [],
      hasPython: true,
      source: {
        snapshot: { statePath, stateSha256: sha256(TEMPLATE_STATE), machine: FAKE_MACHINE },
        copyMemory: async (to) => {
          await this.script.step('fill-memory');
          await writeFile(to, 'of the template', { flag: 'r+' });
        },
        ...(mapMemory === undefined ? {} : { mapMemory: (sharers) => mapMemory(ramPath, sharers) }),
        ...(sharedNeed === undefined ? {} : { sharedNeed: (sharers) => sharedNeed(ramPath, sharers) }),
        copyDisk: async (to) => {
          await this.script.step('copy-disk');
          await writeFile(to, 'disk');
        },
      },
    };
  }

  #copies(): Copies {
    const { script } = this;
    const copies = fakeCopies({
      script,
      sharing: this.sharing,
      vmOf: (path) => this.#vmOf(path),
      isOfVm: (path) => path.startsWith(join(this.dir, 'run')),
      makeMemory: () => this.makeMemory(),
      lease: (kind) => this.lease(kind),
    });
    const sharedNeed = this.#sharedNeed;
    return sharedNeed === undefined ? copies : { ...copies, sharedNeed };
  }

  #vmOf(path: string): FakeVm | undefined {
    return [...this.#vms.values()].find(
      ({ memoryPath, channelPath }) => path === memoryPath || path.startsWith(channelPath.slice(0, -1)),
    );
  }

  makeMemory(): GuestMemory {
    const fd = this.nextNumber();
    const path = join(this.dir, 'ram', String(fd));
    const release = this.lease('memories');
    writeFileSync(path, '');
    const close = (): void => {
      release();
      rmSync(path, { force: true });
    };
    return { fd, path, usedBytes: () => 0, close };
  }

  /** Counts a resource in use. @returns a function that releases it */
  lease(kind: string): () => void {
    const what = {};
    this.add(kind, what);
    return () => this.delete(kind, what);
  }

  #scripted(store: Store): Store {
    const { script } = this;
    const stage: Store['snapshots']['stage'] = async () => {
      const staging = await store.snapshots.stage();
      return {
        ...staging,
        commit: async (made, row) => {
          await script.step('commit', this.#vms.get(made.sandboxId));
          return await staging.commit(made, row);
        },
      };
    };
    const put: Store['sandboxes']['put'] = async (row) => {
      await script.step('put');
      await store.sandboxes.put(row);
    };
    return { ...store, sandboxes: { ...store.sandboxes, put }, snapshots: { ...store.snapshots, stage } };
  }
}

interface OpenedStore {
  readonly store: Store;
  readonly dataDir: string;
}

async function openFor(dir: string, options: FakeHostOptions): Promise<OpenedStore> {
  const { dataDir = join(dir, 'data') } = options;
  const keyPath = `${dataDir}.key`;
  const parts = { dir: dataDir, keyPath, clock: new FakeClock(), log: silentLog };
  return { dataDir, store: await openStore(parts) };
}

/** A separate template for each image. */

function platformsOf(rootImage: string | undefined, older: readonly string[]): PlatformTable {
  return {
    has: ({ rootImageDigest }) =>
      rootImageDigest === undefined || [rootImage ?? 'image', ...older].includes(rootImageDigest),
    verify: async () => undefined,
  };
}
