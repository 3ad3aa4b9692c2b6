/**
 * A `ControlPlane` in memory, whose sandboxes are real guest agents as processes of this machine: programs run, files
 * are written, the shell works, all as this user on this machine's file system. So use paths in `dirOf(id)`. The agent
 * starts at the first use of its guest, so that `create` costs nothing.
 *
 * Not real: snapshots keep nothing, forks and clones share nothing but their options, and a paused sandbox's programs
 * continue.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import type { ChannelStats } from '../../src/base/channel.ts';
import { systemClock } from '../../src/base/clock.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { productName } from '../../src/base/package-dir.ts';
import { parseEgress } from '../../src/host/runtime/network.ts';
import type { UsageRecord } from '../../src/inference/bridge/bridge.ts';
import type { Guest } from '../../src/machine/guest/guest.ts';
import type { Vm } from '../../src/machine/vmm/driver.ts';
import { ByteTail } from '../../src/machine/vmm/tail.ts';
import type {
  ControlPlane,
  CreateRequest,
  EventsOptions,
  ForkOptions,
  ForkResult,
  HostInfo,
  LogChunk,
  PauseTarget,
  PoolInfo,
  PoolLimits,
  PoolMembers,
  ResumeOptions,
  SandboxChange,
  SandboxFilter,
  SandboxInfo,
  SnapshotInfo,
  SnapshotOptions,
} from '../../src/sandbox/contract/control.ts';
import { type EndCause, NO_EVIDENCE, type SandboxLogs } from '../../src/sandbox/contract/ending.ts';
import { SandboxError } from '../../src/sandbox/contract/errors.ts';
import type { TimedEvent } from '../../src/sandbox/contract/events.ts';
import { RANGES } from '../../src/sandbox/contract/limits.ts';
import { egressText, type NetworkSpec, networkSpec } from '../../src/sandbox/contract/network-spec.ts';
import { checkRequest, lifetimePolicyOf } from '../../src/sandbox/contract/request.ts';
import { secretInfo } from '../../src/sandbox/contract/secrets.ts';
import { makeSpec, type SandboxSpec, specInfo, withSecrets } from '../../src/sandbox/contract/spec.ts';
import { EventJournal } from '../../src/sandbox/plane/event-journal.ts';
import { followLogs } from '../../src/sandbox/plane/logs.ts';
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import { type RunningAgent, startAgent } from './guest-agent.ts';

export interface FakeOptions {
  /** Awaited by `create` before the sandbox exists; may throw, or wait for the signal. */
  readonly beforeCreate?: (request: CreateRequest, signal: AbortSignal | undefined) => Promise<void> | void;
  /** Home of the users of every sandbox. Default: this process's. */
  readonly home?: string;
  /** Called first by every method; its exception is the method's error. */
  readonly before?: (method: string) => void;
}

interface FakeSandbox {
  info: SandboxInfo;
  spec: SandboxSpec;
  agent: Promise<RunningAgent> | undefined;
  readonly operations: Set<Duplex>;
  readonly events: EventJournal;
  readonly tails: { readonly console: ByteTail; readonly vmm: ByteTail };
  stopTimer: () => void;
}

const networkInfo = (network: NetworkSpec | null): SandboxInfo['network'] =>
  network && { ...egressText(network.policy), limits: network.limits, gatewayUse: null, address: '10.201.0.2' };
const NO_TIMINGS = { prepareMs: 1, vmmMs: 2, kernelMs: 0, agentMs: 3, totalMs: 6 } as const;

export class FakeControlPlane implements ControlPlane, AsyncDisposable {
  /** The result of `usage`; tests fill it. */
  readonly usageRecords: UsageRecord[] = [];
  /** The result of `logs`; tests fill it. */
  readonly logsOf = new Map<string, SandboxLogs>();
  readonly #options: FakeOptions;
  readonly #sandboxes = new Map<string, FakeSandbox>();
  readonly #snapshots = new Map<string, SnapshotInfo>();
  readonly #pools = new Map<string, PoolInfo>();
  readonly #listeners = new Set<(info: SandboxInfo) => void>();
  readonly #startedAtMs = systemClock.wall();

  constructor(options: FakeOptions = {}) {
    this.#options = options;
  }

  /** A private directory that exists as long as the sandbox. */
  async dirOf(id: string): Promise<string> {
    return (await this.#agent(this.#live(id))).dir;
  }

  async host(): Promise<HostInfo> {
    this.#options.before?.('host');
    const live = await this.list();
    return {
      version: '0.0.0',
      vmm: 'none (agents as processes)',
      vmmReason: 'as configured',
      memorySharing: 'none',
      accelerator: 'fake',
      upstream: 'none',
      models: ['llama', 'qwen'],
      sandboxes: live.length,
      paused: live.filter(({ status }) => status === 'paused').length,
      queued: 0,
      memoryAvailableMib: 1024,
      startedAtMs: this.#startedAtMs,
      modelBudgets: [],
    };
  }

  async create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo> {
    this.#options.before?.('create');
    checkRequest(request, request.memoryMaxMib !== undefined);
    const spec = makeSpec(request, RANGES.cpus.max, parseEgress);
    const snapshot = request.snapshot === undefined ? null : this.#snapshot(request.snapshot);
    await this.#options.beforeCreate?.(request, signal);
    if (signal?.aborted === true) throw cancelled(signal);
    const origin = snapshot !== null ? 'snapshot' : request.boot === true ? 'boot' : 'pool';
    return this.#add(spec, request, { origin, snapshot: snapshot?.id ?? null });
  }

  async list(filter: SandboxFilter = {}): Promise<readonly SandboxInfo[]> {
    this.#options.before?.('list');
    const pairs = Object.entries(filter.metadata ?? {});
    return [...this.#sandboxes.values()]
      .map(({ info }) => info)
      .filter(({ status }) => status !== 'ended' || filter.status?.includes(status) === true)
      .filter(({ status }) => filter.status?.includes(status) ?? true)
      .filter(({ metadata }) => pairs.every(([key, value]) => metadata[key] === value))
      .reverse();
  }

  async get(id: string): Promise<SandboxInfo> {
    this.#options.before?.('get');
    return this.#any(id).info;
  }

  async update(id: string, change: SandboxChange): Promise<SandboxInfo> {
    this.#options.before?.('update');
    checkRequest(change);
    const sandbox = this.#live(id);
    const { timeoutMs, channelLimits: _channelLimits, network, secrets, ...rest } = change;
    const { requestHeaders, ...others } = rest;
    if (secrets !== undefined || requestHeaders !== undefined) {
      sandbox.spec = withSecrets(sandbox.spec, { secrets, requestHeaders });
      sandbox.info = { ...sandbox.info, secrets: secretInfo(sandbox.spec.secrets) };
    }
    if (network !== undefined) {
      const limits = sandbox.info.network?.limits;
      const changed = networkSpec(network && { limits, ...network }, parseEgress);
      sandbox.info = { ...sandbox.info, network: networkInfo(changed) };
    }
    const annotations = { ...sandbox.info.annotations, ...change.annotations };
    for (const [key, value] of Object.entries({ ...others, annotations })) {
      if (value !== undefined) sandbox.info = { ...sandbox.info, [key]: value };
    }
    if (timeoutMs !== undefined) this.#limit(sandbox, timeoutMs);
    return this.#set(sandbox, {});
  }

  async remove(id: string): Promise<SandboxInfo> {
    this.#options.before?.('remove');
    return await this.#end(this.#live(id), 'stopped', 'removed');
  }

  async pause(id: string, to: PauseTarget): Promise<SandboxInfo> {
    this.#options.before?.('pause');
    const sandbox = this.#live(id);
    if (sandbox.info.status !== 'running') {
      throw new SandboxError('not_ready', `pause ${id}: it is ${sandbox.info.status}`);
    }
    return this.#pause(sandbox, to);
  }

  async resume(id: string, options: ResumeOptions = {}): Promise<SandboxInfo> {
    this.#options.before?.('resume');
    const sandbox = this.#live(id);
    const { pausedTo } = sandbox.info;
    if (pausedTo === 'disk-only' || (pausedTo !== null && options.reboot === true)) {
      await this.#reboot(sandbox);
    }
    return this.#resume(sandbox);
  }

  async snapshot(id: string, options: SnapshotOptions = {}): Promise<SnapshotInfo> {
    this.#options.before?.('snapshot');
    const { info } = this.#live(id);
    const { name = null, diskOnly = false } = options;
    if (name !== null && [...this.#snapshots.values()].some((other) => other.name === name)) {
      throw new SandboxError('name_taken', `snapshot ${name}: another one has this name`);
    }
    const { cpus, memoryMib, diskMib, annotations } = info;
    const snapshot: SnapshotInfo = {
      id: newSandboxId(),
      name,
      sandbox: id,
      annotations,
      cpus,
      memoryMib,
      diskMib,
      createdAtMs: systemClock.wall(),
      bytes: 4096,
      diskOnly,
      current: true,
      madeBy: productName(),
    };
    this.#snapshots.set(snapshot.id, snapshot);
    return snapshot;
  }

  async fork(id: string, options: ForkOptions): Promise<readonly ForkResult[]> {
    this.#options.before?.('fork');
    const parent = this.#live(id);
    return Array.from({ length: options.count }, () => {
      const spec = { ...parent.spec, id: newSandboxId() };
      const { metadata = parent.info.metadata, timeoutMs } = options;
      const request = { metadata, timeoutMs, annotations: parent.info.annotations };
      return { ok: true, sandbox: this.#add(spec, request, { origin: 'fork', parent: id }) };
    });
  }

  async snapshots(): Promise<readonly SnapshotInfo[]> {
    this.#options.before?.('snapshots');
    return [...this.#snapshots.values()];
  }

  async removeSnapshot(idOrName: string): Promise<void> {
    this.#options.before?.('removeSnapshot');
    this.#snapshots.delete(this.#snapshot(idOrName).id);
  }

  async pools(): Promise<readonly PoolInfo[]> {
    this.#options.before?.('pools');
    return [...this.#pools.values()];
  }

  async setPool(limits: PoolLimits, members: PoolMembers = {}): Promise<PoolInfo> {
    this.#options.before?.('setPool');
    const { image: _unknown, template: name = null, ...given } = members;
    const entries = Object.entries(given).filter(([, value]) => value !== undefined);
    const whole = { ...DEFAULT_TEMPLATE, ...Object.fromEntries(entries) };
    const template = name ?? JSON.stringify(whole);
    const pool: PoolInfo = {
      template,
      name,
      spec: whole,
      target: limits.min,
      ready: limits.min,
      starting: 0,
      hits: 0,
      misses: 0,
      discarded: 0,
      ...limits,
    };
    this.#pools.set(template, pool);
    return pool;
  }

  async guest(id: string): Promise<Guest> {
    this.#options.before?.('guest');
    return (await this.#awake(id)).guest;
  }

  async openOperation(id: string): Promise<Duplex> {
    this.#options.before?.('openOperation');
    const { channelPath } = await this.#awake(id);
    const { operations } = this.#live(id);
    const stream = connect({ path: channelPath, allowHalfOpen: true });
    operations.add(stream);
    stream.on('close', () => operations.delete(stream));
    stream.write('CONNECT 5000\n');
    return stream;
  }

  /** Opens a port of this machine's loopback, as if that were the sandbox's card. */
  async openPort(id: string, port: number): Promise<Duplex> {
    this.#options.before?.('openPort');
    await this.#awake(id);
    const stream = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    await once(stream, 'connect').catch((cause: unknown) => {
      throw new SandboxError('port_unreachable', `port ${port} of the sandbox's card`, { cause });
    });
    return stream;
  }

  async channelStats(id: string): Promise<ChannelStats> {
    this.#options.before?.('channelStats');
    const { operations } = this.#live(id);
    return {
      bytesGuestToHost: 0,
      bytesHostToGuest: 0,
      connectionsOpened: 0,
      connectionsOpen: operations.size,
      connectionsRefused: 0,
      protocolErrors: 0,
      throttledMsGuestToHost: 0,
      throttledMsHostToGuest: 0,
    };
  }

  async usage(id: string): Promise<readonly UsageRecord[]> {
    this.#options.before?.('usage');
    this.#any(id);
    return this.usageRecords;
  }

  async logs(id: string): Promise<SandboxLogs> {
    this.#options.before?.('logs');
    this.#any(id);
    return this.logsOf.get(id) ?? { console: 'booted\n', vmm: '' };
  }

  followLogs(id: string, signal: AbortSignal): AsyncGenerator<LogChunk, void> {
    this.#options.before?.('followLogs');
    const sandbox = this.#any(id);
    const vm = { logs: this.tails(id) } as unknown as Vm;
    return followLogs({ id, vm, info: () => sandbox.info }, this, systemClock, signal);
  }

  /** For tests to write to. */
  tails(id: string): { readonly console: ByteTail; readonly vmm: ByteTail } {
    const { tails } = this.#any(id);
    return tails;
  }

  async *events(id: string, options: EventsOptions = {}): AsyncGenerator<TimedEvent, void> {
    this.#options.before?.('events');
    const { after = 0, follow = true, signal = new AbortController().signal } = options;
    const { events } = this.#any(id);
    if (follow) yield* events.read(after, signal);
    else yield* events.since(after);
  }

  /** For tests to add events to. */
  journal(id: string): EventJournal {
    return this.#any(id).events;
  }

  onChange(listener: (info: SandboxInfo) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const sandbox of this.#sandboxes.values()) await this.#end(sandbox, 'stopped', 'closed');
  }

  #add(
    spec: SandboxSpec,
    request: CreateRequest,
    from: Pick<SandboxInfo, 'origin'> & Partial<Pick<SandboxInfo, 'snapshot' | 'parent'>>,
  ): SandboxInfo {
    const { id } = spec;
    const { timeoutMs, ...lifetime } = lifetimePolicyOf(request);
    const info: SandboxInfo = {
      id,
      status: 'running',
      pausedTo: null,
      pauseReason: null,
      ...specInfo(spec),
      ...lifetime,
      snapshot: null,
      template: request.template ?? null,
      parent: null,
      ...from,
      accelerator: 'fake',
      sharesMemory: null,
      network: networkInfo(spec.network),
      createdAtMs: systemClock.wall(),
      endsAtMs: null,
      timings: from.origin === 'pool' ? null : { origin: 'clone', ...NO_TIMINGS },
      readyMs: 6,
      end: null,
    };
    const sandbox: FakeSandbox = {
      info,
      spec,
      agent: undefined,
      operations: new Set(),
      events: new EventJournal(systemClock),
      tails: { console: new ByteTail(64 * 1024), vmm: new ByteTail(4096) },
      stopTimer: () => undefined,
    };
    this.#sandboxes.set(id, sandbox);
    this.#limit(sandbox, timeoutMs);
    return this.#set(sandbox, {});
  }

  #set(sandbox: FakeSandbox, change: Partial<SandboxInfo>): SandboxInfo {
    sandbox.info = { ...sandbox.info, ...change };
    for (const listener of this.#listeners) listener(sandbox.info);
    return sandbox.info;
  }

  #limit(sandbox: FakeSandbox, timeoutMs: number | null): void {
    sandbox.stopTimer();
    const endsAtMs = timeoutMs === null ? null : systemClock.wall() + timeoutMs;
    sandbox.info = { ...sandbox.info, endsAtMs };
    if (timeoutMs === null) return;
    sandbox.stopTimer = systemClock.after(timeoutMs, () => {
      const { onTimeout } = sandbox.info;
      if (onTimeout === 'pause') this.#pause(sandbox, 'disk');
      else if (onTimeout === 'pause-disk-only') this.#pause(sandbox, 'disk-only');
      else void this.#end(sandbox, 'timeout', `its ${timeoutMs} ms are over`);
    });
  }

  #pause(sandbox: FakeSandbox, to: PauseTarget): SandboxInfo {
    sandbox.stopTimer();
    if (to !== 'memory') for (const stream of sandbox.operations) stream.destroy();
    return this.#set(sandbox, { status: 'paused', pausedTo: to, endsAtMs: null });
  }

  #resume(sandbox: FakeSandbox): SandboxInfo {
    if (sandbox.info.status !== 'paused') return sandbox.info;
    return this.#set(sandbox, { status: 'running', pausedTo: null });
  }

  /** Ends its processes. */
  async #reboot(sandbox: FakeSandbox): Promise<void> {
    const { agent } = sandbox;
    sandbox.agent = undefined;
    await (await agent)?.[Symbol.asyncDispose]();
  }

  /** Simulates this end of its VM. */
  async crash(id: string, cause: EndCause, detail: string): Promise<void> {
    await this.#end(this.#live(id), cause, detail);
  }

  async #end(sandbox: FakeSandbox, cause: EndCause, detail: string): Promise<SandboxInfo> {
    sandbox.stopTimer();
    if (sandbox.info.status === 'ended') return sandbox.info;
    const end = { cause, detail, atMs: systemClock.wall(), evidence: NO_EVIDENCE };
    sandbox.events.note({ type: 'end', end });
    this.#set(sandbox, { status: 'ended', pausedTo: null, end });
    for (const stream of sandbox.operations) stream.destroy();
    await (await sandbox.agent)?.[Symbol.asyncDispose]();
    return sandbox.info;
  }

  async #awake(id: string): Promise<RunningAgent> {
    const sandbox = this.#live(id);
    if (sandbox.info.status === 'paused') {
      const { autoResume, pausedTo } = sandbox.info;
      if (!autoResume || pausedTo === 'disk-only') throw new SandboxError('not_ready', `${id}: it is paused`);
      this.#resume(sandbox);
    }
    const agent = await this.#agent(sandbox);
    this.#live(id);
    return agent;
  }

  #agent(sandbox: FakeSandbox): Promise<RunningAgent> {
    const { id: sandboxId, hostname, env, warm } = sandbox.spec;
    const { home } = this.#options;
    sandbox.agent ??= startAgent({
      identity: { sandboxId, hostname, env, warm },
      ...(home === undefined ? {} : { home }),
    });
    return sandbox.agent;
  }

  #any(id: string): FakeSandbox {
    const sandbox = this.#sandboxes.get(id);
    if (sandbox === undefined) throw new SandboxError('not_found', `sandbox ${id}: there is none`);
    return sandbox;
  }

  #live(id: string): FakeSandbox {
    const sandbox = this.#any(id);
    const { status, end } = sandbox.info;
    if (status === 'ended') {
      throw new SandboxError('gone', `sandbox ${id} has ended: ${end?.detail ?? ''}`);
    }
    return sandbox;
  }

  #snapshot(idOrName: string): SnapshotInfo {
    const named = [...this.#snapshots.values()].find(({ name }) => name === idOrName);
    const snapshot = this.#snapshots.get(idOrName) ?? named;
    if (snapshot !== undefined) return snapshot;
    throw new SandboxError('not_found', `snapshot ${idOrName}: there is none`);
  }
}

/** A `beforeCreate` that waits until the caller disconnects. */
export async function untilCancelled(_request: CreateRequest, signal: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve) => {
    signal?.addEventListener('abort', () => resolve(), { once: true });
  });
}

function cancelled(signal: AbortSignal): SandboxError {
  return new SandboxError('cancelled', 'create: cancelled', { cause: signal.reason });
}
