/** The sandboxes of the control plane in memory: real guest agents as processes of this machine. */
import type { Duplex } from 'node:stream';
import { systemClock } from '../../src/base/clock.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { parseEgress } from '../../src/host/runtime/network.ts';
import { ByteTail } from '../../src/machine/vmm/tail.ts';
import type {
  CreateRequest,
  ForkOptions,
  ForkResult,
  PauseTarget,
  ResumeOptions,
  SandboxChange,
  SandboxFilter,
  SandboxInfo,
} from '../../src/sandbox/contract/control.ts';
import { type EndCause, NO_EVIDENCE } from '../../src/sandbox/contract/ending.ts';
import { SandboxError } from '../../src/sandbox/contract/errors.ts';
import { RANGES } from '../../src/sandbox/contract/limits.ts';
import { egressText, type NetworkSpec, networkSpec } from '../../src/sandbox/contract/network-spec.ts';
import { checkRequest, lifetimePolicyOf } from '../../src/sandbox/contract/request.ts';
import type { Sandboxes } from '../../src/sandbox/contract/sandboxes.ts';
import { secretInfo } from '../../src/sandbox/contract/secrets.ts';
import { makeSpec, type SandboxSpec, specInfo, withSecrets } from '../../src/sandbox/contract/spec.ts';
import { EventJournal } from '../../src/sandbox/plane/event-journal.ts';
import { type Saved, savedAs } from './fake-snapshots.ts';
import { type RunningAgent, startAgent } from './guest-agent.ts';

export interface FakeOptions {
  /** Awaited by `create` before the sandbox exists; may throw, or wait for the signal. */
  readonly beforeCreate?: (request: CreateRequest, signal: AbortSignal | undefined) => Promise<void> | void;
  /** Home of the users of every sandbox. Default: this process's. */
  readonly home?: string;
  /** Called first by every method; its exception is the method's error. */
  readonly before?: (method: string) => void;
}

export interface FakeSandbox {
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

export class FakeSandboxes implements Sandboxes, AsyncDisposable {
  readonly #options: FakeOptions;
  readonly #sandboxes = new Map<string, FakeSandbox>();
  readonly saved: Saved = new Map();
  readonly #listeners = new Set<(info: SandboxInfo) => void>();

  constructor(options: FakeOptions = {}) {
    this.#options = options;
  }

  readonly before = (method: string): void => this.#options.before?.(method);

  /** A private directory that exists as long as the sandbox. */
  async dirOf(id: string): Promise<string> {
    return (await this.#agent(this.live(id))).dir;
  }

  async create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo> {
    this.before('create');
    checkRequest(request, request.memoryMaxMib !== undefined);
    const spec = makeSpec(request, RANGES.cpus.max, parseEgress);
    const [holder] = request.name === undefined ? [] : await this.list({ name: request.name });
    if (holder !== undefined) throw new SandboxError('name_taken', `the name is that of sandbox ${holder.id}`);
    const snapshot = request.snapshot === undefined ? null : savedAs(this.saved, request.snapshot);
    await this.#options.beforeCreate?.(request, signal);
    if (signal?.aborted === true) throw cancelled(signal);
    const origin = snapshot !== null ? 'snapshot' : request.boot === true ? 'boot' : 'pool';
    return this.#add(spec, request, { origin, snapshot: snapshot?.id ?? null });
  }

  async list(filter: SandboxFilter = {}): Promise<readonly SandboxInfo[]> {
    this.before('list');
    const pairs = Object.entries(filter.metadata ?? {});
    return [...this.#sandboxes.values()]
      .map(({ info }) => info)
      .filter(({ status }) => status !== 'ended' || filter.status?.includes(status) === true)
      .filter(({ status }) => filter.status?.includes(status) ?? true)
      .filter(({ name }) => (filter.name ?? name) === name)
      .filter(({ metadata }) => pairs.every(([key, value]) => metadata[key] === value))
      .reverse();
  }

  async get(id: string): Promise<SandboxInfo> {
    this.before('get');
    return this.any(id).info;
  }

  async update(id: string, change: SandboxChange): Promise<SandboxInfo> {
    this.before('update');
    checkRequest(change);
    const sandbox = this.live(id);
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
    this.before('remove');
    return await this.#end(this.live(id), 'stopped', 'removed');
  }

  async pause(id: string, to: PauseTarget): Promise<SandboxInfo> {
    this.before('pause');
    const sandbox = this.live(id);
    if (sandbox.info.status !== 'running') {
      throw new SandboxError('not_ready', `pause ${id}: it is ${sandbox.info.status}`);
    }
    return this.#pause(sandbox, to);
  }

  async resume(id: string, options: ResumeOptions = {}): Promise<SandboxInfo> {
    this.before('resume');
    const sandbox = this.live(id);
    const { pausedTo } = sandbox.info;
    if (pausedTo === 'disk-only' || (pausedTo !== null && options.reboot === true)) {
      await this.#reboot(sandbox);
    }
    return this.#resume(sandbox);
  }

  async fork(id: string, options: ForkOptions): Promise<readonly ForkResult[]> {
    this.before('fork');
    const parent = this.live(id);
    return Array.from({ length: options.count }, () => {
      const spec = { ...parent.spec, id: newSandboxId() };
      const { metadata = parent.info.metadata, timeoutMs, name } = options;
      const request = { name, metadata, timeoutMs, annotations: parent.info.annotations };
      return { ok: true, sandbox: this.#add(spec, request, { origin: 'fork', parent: id }) };
    });
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
      foreignPause: null,
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
    await this.#end(this.live(id), cause, detail);
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

  readonly awake = async (id: string): Promise<RunningAgent> => {
    const sandbox = this.live(id);
    if (sandbox.info.status === 'paused') {
      const { autoResume, pausedTo } = sandbox.info;
      if (!autoResume || pausedTo === 'disk-only') throw new SandboxError('not_ready', `${id}: it is paused`);
      this.#resume(sandbox);
    }
    const agent = await this.#agent(sandbox);
    this.live(id);
    return agent;
  };

  #agent(sandbox: FakeSandbox): Promise<RunningAgent> {
    const { id: sandboxId, hostname, env, warm } = sandbox.spec;
    const { home } = this.#options;
    sandbox.agent ??= startAgent({
      identity: { sandboxId, hostname, env, warm },
      ...(home === undefined ? {} : { home }),
    });
    return sandbox.agent;
  }

  readonly any = (id: string): FakeSandbox => {
    const sandbox = this.#sandboxes.get(id);
    if (sandbox === undefined) throw new SandboxError('not_found', `sandbox ${id}: there is none`);
    return sandbox;
  };

  readonly live = (id: string): FakeSandbox => {
    const sandbox = this.any(id);
    const { status, end } = sandbox.info;
    if (status === 'ended') {
      throw new SandboxError('gone', `sandbox ${id} has ended: ${end?.detail ?? ''}`);
    }
    return sandbox;
  };
}

function cancelled(signal: AbortSignal): SandboxError {
  return new SandboxError('cancelled', 'create: cancelled', { cause: signal.reason });
}
