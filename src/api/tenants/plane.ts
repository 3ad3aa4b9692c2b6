/**
 * A tenant's view of the control plane, which shows and changes only the tenant's sandboxes and snapshots.
 *
 *     server ──► TenantPlane ──► ControlPlane
 *                  create: records the owner as an annotation, which forks, pauses and snapshots keep
 *                  others: `not_found` for a sandbox of another owner, as for one that does not exist
 *
 * A refusal must not reveal whether a sandbox exists, so it is always the same error, never "forbidden". The owner of a
 * sandbox never changes, so a check before a call holds during the call.
 */
import type { Duplex } from 'node:stream';
import type { ChannelStats } from '../../base/channel.ts';
import { errorCode } from '../../base/errors.ts';
import { EVERY_HOSTED } from '../../base/request/model-limits.ts';
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
import { nameOnHost, ownerOf, ownName, withOwner } from './owner.ts';
import type { StorageQuota } from './storage-quota.ts';

/** Quotas of starts are enforced below, where VMs are started. */
export interface TenantSettings {
  /** Default: unlimited. */
  readonly storage?: StorageQuota | undefined;
  /** Models that other hosts may serve for the tenant. Default: none. */
  readonly hostedOf?: ((tenant: string) => readonly string[]) | undefined;
}

export class TenantPlane implements ControlPlane {
  readonly #control: ControlPlane;
  readonly #tenant: string;
  readonly #settings: TenantSettings;

  constructor(control: ControlPlane, tenant: string, settings: TenantSettings = {}) {
    this.#control = control;
    this.#tenant = tenant;
    this.#settings = settings;
  }

  /** Counts only the tenant's sandboxes; the queue may include others'. */
  async host(): Promise<HostInfo> {
    const host = await this.#control.host();
    const own = await this.list();
    const paused = own.filter(({ status }) => status === 'paused').length;
    const modelBudgets = host.modelBudgets.filter(({ tenant }) => tenant === this.#tenant);
    return { ...host, sandboxes: own.length, paused, queued: 0, modelBudgets };
  }

  async create(request: CreateRequest, signal?: AbortSignal): Promise<SandboxInfo> {
    this.#requireHosted(request.models?.allowHosted ?? []);
    const { snapshot } = request;
    const source = snapshot === undefined ? {} : { snapshot: (await this.#snapshot(snapshot)).id };
    const annotations = withOwner(request.annotations, this.#tenant);
    return await this.#control.create({ ...request, ...source, annotations }, signal);
  }

  async list(filter?: SandboxFilter): Promise<readonly SandboxInfo[]> {
    return (await this.#control.list(filter)).filter((info) => this.#owns(info));
  }

  async get(id: string): Promise<SandboxInfo> {
    const info = await this.#find(id);
    if (this.#owns(info)) return info;
    throw noSandbox(id);
  }

  async update(id: string, change: SandboxChange): Promise<SandboxInfo> {
    await this.get(id);
    const { annotations } = change;
    const kept = annotations && { annotations: withOwner(annotations, this.#tenant) };
    return await this.#control.update(id, { ...change, ...kept });
  }

  async remove(id: string): Promise<SandboxInfo> {
    await this.get(id);
    return await this.#control.remove(id);
  }

  async pause(id: string, to: PauseTarget): Promise<SandboxInfo> {
    await this.get(id);
    if (to === 'memory') return await this.#control.pause(id, to);
    return await this.#saved(() => this.#control.pause(id, to));
  }

  async resume(id: string, options?: ResumeOptions): Promise<SandboxInfo> {
    await this.get(id);
    return await this.#control.resume(id, options);
  }

  async snapshot(id: string, options?: SnapshotOptions): Promise<SnapshotInfo> {
    await this.get(id);
    const { name } = options ?? {};
    if (name === undefined) return await this.#saved(() => this.#control.snapshot(id, options));
    if ((await this.snapshots()).some((own) => own.name === name || own.id === name)) {
      throw new SandboxError('name_taken', `there is a snapshot "${name}" already`, {
        remedy: 'choose another name, or remove that snapshot',
      });
    }
    const named = { ...options, name: nameOnHost(this.#tenant, name) };
    const made = await this.#saved(() => this.#control.snapshot(id, named));
    return { ...made, name: ownName(made) };
  }

  async fork(id: string, options: ForkOptions): Promise<readonly ForkResult[]> {
    await this.get(id);
    return await this.#control.fork(id, options);
  }

  async snapshots(): Promise<readonly SnapshotInfo[]> {
    const own = (await this.#control.snapshots()).filter((info) => this.#owns(info));
    return own.map((info) => ({ ...info, name: ownName(info) }));
  }

  async removeSnapshot(idOrName: string): Promise<void> {
    await this.#control.removeSnapshot((await this.#snapshot(idOrName)).id);
  }

  /** Pools belong to the host. */
  async pools(): Promise<readonly PoolInfo[]> {
    return [];
  }

  async setPool(): Promise<PoolInfo> {
    throw new SandboxError('forbidden', 'pools are the operator’s', {
      remedy: 'ask the operator of this host, who sets them at its socket',
    });
  }

  async guest(id: string): Promise<Guest> {
    await this.get(id);
    return await this.#control.guest(id);
  }

  async openOperation(id: string): Promise<Duplex> {
    await this.get(id);
    return await this.#control.openOperation(id);
  }

  async openPort(id: string, port: number, signal?: AbortSignal): Promise<Duplex> {
    await this.get(id);
    return await this.#control.openPort(id, port, signal);
  }

  async channelStats(id: string): Promise<ChannelStats> {
    await this.get(id);
    return await this.#control.channelStats(id);
  }

  async usage(id: string): Promise<readonly UsageRecord[]> {
    await this.get(id);
    return await this.#control.usage(id);
  }

  async logs(id: string): Promise<SandboxLogs> {
    await this.get(id);
    return await this.#control.logs(id);
  }

  async *followLogs(id: string, signal: AbortSignal): AsyncGenerator<LogChunk, void> {
    await this.get(id);
    yield* this.#control.followLogs(id, signal);
  }

  async *events(id: string, options?: EventsOptions): AsyncGenerator<TimedEvent, void> {
    await this.get(id);
    yield* this.#control.events(id, options);
  }

  onChange(listener: (info: SandboxInfo) => void): () => void {
    return this.#control.onChange((info) => {
      if (this.#owns(info)) listener(info);
    });
  }

  #owns(info: Pick<SandboxInfo, 'annotations'>): boolean {
    return ownerOf(info) === this.#tenant;
  }

  async #saved<T>(save: () => Promise<T>): Promise<T> {
    const { storage } = this.#settings;
    return storage === undefined ? await save() : await storage.save(this.#tenant, this, save);
  }

  /** Hosted models cost the operator's money, and receive the prompts. */
  #requireHosted(wanted: readonly string[]): void {
    const allowed = this.#settings.hostedOf?.(this.#tenant) ?? [];
    if (allowed.includes(EVERY_HOSTED)) return;
    const refused = wanted.filter((name) => !allowed.includes(name));
    if (refused.length === 0) return;
    const which = allowed.length === 0 ? 'none' : allowed.join(', ');
    throw new SandboxError('forbidden', `hosted models: ${refused.join(', ')}: not for this key`, {
      remedy: `its hosted models: ${which}; the operator sets them by neurovisor tenant set ${this.#tenant} --allow-hosted`,
    });
  }

  /** An error of the plane below may have another text, which would reveal the difference. */
  async #find(id: string): Promise<SandboxInfo> {
    try {
      return await this.#control.get(id);
    } catch (error) {
      throw errorCode(error) === 'not_found' ? noSandbox(id) : error;
    }
  }

  /** By its id, otherwise by its name. */
  async #snapshot(idOrName: string): Promise<SnapshotInfo> {
    const own = await this.snapshots();
    const found = own.find(({ id }) => id === idOrName) ?? own.find(({ name }) => name === idOrName);
    if (found !== undefined) return found;
    throw new SandboxError('not_found', `there is no snapshot ${idOrName}`, { remedy: 'neurovisor snapshot ls' });
  }
}

function noSandbox(id: string): SandboxError {
  return new SandboxError('not_found', `there is no sandbox ${id}`, { remedy: 'neurovisor ls' });
}
