/**
 * The control plane of a daemon, used from another process. Each method is one REST request (`spec/openapi.json`);
 * operations in a guest are tunnels to its agent.
 *
 *     CLI, library ──► RemoteControlPlane ── HTTP ────────► src/api/rest ──► ControlPlane
 *                        └─ guest(id) ────── upgrade ─────► openOperation ──► agent
 *
 * Errors are those of the daemon's control plane (SandboxError, BusyError), or a ClientError.
 */
import type { Duplex } from 'node:stream';
import type { ChannelStats } from '../../base/channel.ts';
import { type Clock, systemClock } from '../../base/clock.ts';
import { parseSandboxId } from '../../base/ids.ts';
import { ignore } from '../../base/ignore.ts';
import type { SpanContext } from '../../base/trace/trace.ts';
import type { UsageRecord } from '../../inference/bridge/bridge.ts';
import type { Guest } from '../../machine/guest/guest.ts';
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
} from '../../sandbox/contract/control.ts';
import type { SandboxLogs } from '../../sandbox/contract/ending.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { TimedEvent } from '../../sandbox/contract/events.ts';
import type { SandboxLoads } from '../../sandbox/plane/load.ts';
import { PORT_PROTOCOL, TUNNEL_PROTOCOL } from '../rest/upgrade.ts';
import type { Answer } from './answers.ts';
import * as answers from './answers.ts';
import { Changes } from './changes.ts';
import { readEvents } from './events.ts';
import { readLogs } from './logs.ts';
import { openSession } from './session.ts';
import { type DaemonAddress, Transport } from './transport.ts';

export type { DaemonAddress } from './transport.ts';

const HEALTH_MS_MAX = 2000;

/** @throws ClientError `daemon_unreachable`, `unauthorized`, `address_invalid`, `answer_invalid` */
export async function connectDaemon(address: DaemonAddress, clock: Clock = systemClock): Promise<RemoteControlPlane> {
  const control = new RemoteControlPlane(address, clock);
  try {
    await control.host();
  } catch (error) {
    await control[Symbol.asyncDispose]();
    throw error;
  }
  return control;
}

export async function isDaemonRunning(socketPath: string): Promise<boolean> {
  const transport = new Transport({ socketPath });
  try {
    const signal = AbortSignal.timeout(HEALTH_MS_MAX);
    await transport.call({ method: 'GET', path: '/health', answer: answers.health, signal });
    return true;
  } catch (error) {
    ignore(error, 'no daemon is running');
    return false;
  } finally {
    transport.close();
  }
}

export class RemoteControlPlane implements ControlPlane, AsyncDisposable {
  readonly #transport: Transport;
  readonly #trace: SpanContext | undefined;
  readonly #clock: Clock;
  readonly #changes: Changes;
  readonly #guests = new Set<Guest>();
  readonly #leaving = new AbortController();
  #session: Readonly<Record<string, string>> = {};

  constructor(address: DaemonAddress, clock: Clock) {
    const transport = new Transport(address);
    this.#transport = transport;
    this.#trace = address.trace;
    this.#clock = clock;
    this.#changes = new Changes(
      {
        open: (signal) => transport.stream('/events', signal, false),
        list: () => this.list(),
        get: (id) => this.get(id),
      },
      clock,
    );
  }

  /**
   * From now on, sandboxes that this client creates end with it: the daemon removes them when the client is disposed or
   * its process ends in any way.
   */
  async openSession(): Promise<void> {
    const id = await openSession((signal) => this.#transport.stream('/session', signal, false), this.#leaving.signal);
    this.#session = { 'neurovisor-session': id };
  }

  async host(): Promise<HostInfo> {
    return await this.#get('/host', answers.hostInfo);
  }

  async create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo> {
    return await this.#transport.call({
      method: 'POST',
      path: '/sandboxes',
      headers: this.#session,
      body: request,
      answer: answers.sandboxInfo,
      signal,
      undo: ({ id }) => this.remove(id),
    });
  }

  async list(filter: SandboxFilter = {}): Promise<readonly SandboxInfo[]> {
    const query = new URLSearchParams();
    if (filter.status !== undefined) query.set('status', filter.status.join(','));
    for (const [key, value] of Object.entries(filter.metadata ?? {})) {
      query.append('metadata', `${key}=${value}`);
    }
    return (await this.#get('/sandboxes', answers.sandboxList, query)).sandboxes;
  }

  async get(id: string): Promise<SandboxInfo> {
    return await this.#get(sandbox(id), answers.sandboxInfo);
  }

  async update(id: string, change: SandboxChange): Promise<SandboxInfo> {
    const answer = answers.sandboxInfo;
    return await this.#transport.call({ method: 'PATCH', path: sandbox(id), body: change, answer });
  }

  async remove(id: string): Promise<SandboxInfo> {
    const answer = answers.sandboxInfo;
    return await this.#transport.call({ method: 'DELETE', path: sandbox(id), answer });
  }

  async pause(id: string, to: PauseTarget): Promise<SandboxInfo> {
    return await this.#post(`${sandbox(id)}/pause`, { to }, answers.sandboxInfo);
  }

  async resume(id: string, { signal, ...body }: ResumeOptions = {}): Promise<SandboxInfo> {
    return await this.#post(`${sandbox(id)}/resume`, body, answers.sandboxInfo, signal);
  }

  async snapshot(id: string, options: SnapshotOptions = {}): Promise<SnapshotInfo> {
    return await this.#post(`${sandbox(id)}/snapshots`, options, answers.snapshotInfo);
  }

  async fork(id: string, options: ForkOptions): Promise<readonly ForkResult[]> {
    const path = `${sandbox(id)}/fork`;
    const { forks } = await this.#transport.call({
      method: 'POST',
      path,
      headers: this.#session,
      body: options,
      answer: answers.forkList,
    });
    return forks;
  }

  async snapshots(): Promise<readonly SnapshotInfo[]> {
    return (await this.#get('/snapshots', answers.snapshotList)).snapshots;
  }

  async removeSnapshot(idOrName: string): Promise<void> {
    const path = `/snapshots/${encodeURIComponent(idOrName)}`;
    await this.#transport.call({ method: 'DELETE', path, answer: answers.empty });
  }

  async pools(): Promise<readonly PoolInfo[]> {
    return (await this.#get('/pools', answers.poolList)).pools;
  }

  async setPool(limits: PoolLimits, spec?: PoolMembers): Promise<PoolInfo> {
    const body = { min: limits.min, max: limits.max, spec };
    return await this.#transport.call({ method: 'PUT', path: '/pools', body, answer: answers.poolInfo });
  }

  /** Returns a guest whose `events` never fire; use `events(id)`. */
  async guest(id: string): Promise<Guest> {
    const info = await this.#get(`${sandbox(id)}/guest`, answers.guestInfo);
    // Loaded only here, since most commands need no guest.
    const { connectGuest } = await import('../../machine/guest/remote.ts');
    const guest = connectGuest({ dial: () => this.openOperation(id), info, clock: this.#clock });
    this.#guests.add(guest);
    void guest.closed.then(() => this.#guests.delete(guest));
    if (this.#trace === undefined) return guest;
    const { guestInTrace } = await import('../../sandbox/contract/traced-guest.ts');
    return guestInTrace(guest, this.#trace);
  }

  async openOperation(id: string): Promise<Duplex> {
    return await this.#transport.upgrade(`${sandbox(id)}/operations`, TUNNEL_PROTOCOL);
  }

  async openPort(id: string, port: number, signal?: AbortSignal): Promise<Duplex> {
    return await this.#transport.upgrade(`${sandbox(id)}/ports/${port}`, PORT_PROTOCOL, signal);
  }

  async channelStats(id: string): Promise<ChannelStats> {
    return await this.#get(`${sandbox(id)}/channel`, answers.channelStats);
  }

  async usage(id: string): Promise<readonly UsageRecord[]> {
    return (await this.#get(`${sandbox(id)}/usage`, answers.usageList)).usage;
  }

  async logs(id: string): Promise<SandboxLogs> {
    return await this.#get(`${sandbox(id)}/logs`, answers.sandboxLogs);
  }

  followLogs(id: string, signal: AbortSignal): AsyncIterable<LogChunk> {
    const path = `${sandbox(id)}/logs/stream`;
    return readLogs((until) => this.#transport.stream(path, until, true), signal);
  }

  events(id: string, options: EventsOptions = {}): AsyncIterable<TimedEvent> {
    const path = `${sandbox(id)}/events`;
    return readEvents((query, signal) => this.#transport.stream(`${path}?${query}`, signal, true), options);
  }

  async loads(): Promise<SandboxLoads> {
    return await this.#get('/loads', answers.sandboxLoads);
  }

  async metrics(): Promise<string> {
    return await this.#transport.text('/metrics');
  }

  onChange(listener: (info: SandboxInfo) => void): () => void {
    return this.#changes.listen(listener);
  }

  /**
   * Calls the listener when the stream of changes was interrupted: the daemon ended or came back. Only works with
   * `onChange`.
   */
  onInterruption(listener: () => void): () => void {
    return this.#changes.listenInterruptions(listener);
  }

  /** Closes the connections of this client. Sandboxes keep running, except those of its session. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#changes.close();
    this.#leaving.abort();
    for (const guest of this.#guests) guest.close();
    this.#transport.close();
  }

  #get<T>(path: string, answer: Answer<T>, query?: URLSearchParams): Promise<T> {
    return this.#transport.call({ method: 'GET', path, query, answer });
  }

  #post<T>(path: string, body: unknown, answer: Answer<T>, signal?: AbortSignal): Promise<T> {
    return this.#transport.call({ method: 'POST', path, body, answer, signal });
  }
}

/** @throws SandboxError `not_found` for a malformed id */
function sandbox(id: string): string {
  if (parseSandboxId(id) !== undefined) return `/sandboxes/${id}`;
  throw new SandboxError('not_found', `there is no sandbox ${id.slice(0, 64)}`);
}
