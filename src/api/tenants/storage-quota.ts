/**
 * Limits the disk space of each tenant: the one place that knows all kinds of it (`usage.ts`).
 *
 *     disks                        counted by `TenantQuotas` with their size, reserved before a start
 *     volumes                      with their whole size, before they are made
 *     snapshots, pauses, templates their size is known only once they are made
 *     uploads                      reserved before the first byte; kept archives make way for all others
 *     events                       bounded by their journal, which drops the oldest
 *
 * The saves of a tenant run one after another, and one may begin below the quota: the tenant exceeds it by at most the
 * last one, and the image of a template build. Pauses by timeouts and idleness count and are not refused: the sandbox
 * would be lost. What is measured here is kept for starts that no tenant asks for, such as a resume by traffic.
 */
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import type { ControlPlane, SandboxInfo } from '../../sandbox/contract/control.ts';
import { ownerOf } from './owner.ts';
import type { TenantQuotas } from './quota.ts';
import type { TenantStore } from './settings.ts';
import { countedSize, type StorageKind, type StorageUse, sumOf, type TenantUse } from './usage.ts';

type MeasuredKind = Exclude<StorageKind, 'disks'>;
type Count = (tenant: string) => number | Promise<number>;

export interface StoredWorld extends Pick<ControlPlane, 'list' | 'snapshots' | 'volumes'> {
  /** Space of each pause, by the sandbox's id. */
  pausedBytes(): Promise<ReadonlyMap<string, number>>;
}

/** What is known before a save of its size. */
export interface StorageNeed {
  /** The sandbox whose disk a pause frees. */
  readonly frees?: SandboxInfo;
  /** Default 1: what matters is whether the quota is used up. */
  readonly moreBytes?: number;
}

/** The room for the uploads of one tenant. */
export interface UploadRoom {
  /** Bytes that the tenant's quota leaves to uploads, kept ones included. */
  bytes(): Promise<number>;
  /** @param held bytes of uploads that can't make way */
  refusal(held: number, wanted: number): Error;
}

export class StorageQuota {
  readonly #tenants: Pick<TenantStore, 'of'>;
  readonly #quotas: TenantQuotas;
  readonly #counts: Map<MeasuredKind, Count>;
  #clearUploads: (tenant: string) => Promise<void> = async () => undefined;
  readonly #last = new Map<string, Promise<unknown>>();

  constructor(tenants: Pick<TenantStore, 'of'>, quotas: TenantQuotas, world: StoredWorld) {
    this.#tenants = tenants;
    this.#quotas = quotas;
    this.#counts = new Map<MeasuredKind, Count>([
      ['snapshots', (tenant) => snapshotBytes(world, tenant)],
      ['pauses', (tenant) => pauseBytes(world, tenant)],
      ['volumes', (tenant) => volumeBytes(world, tenant)],
    ]);
  }

  /** Counts another kind from now on. */
  count(kind: MeasuredKind, count: Count): void {
    this.#counts.set(kind, count);
  }

  /** @param clear removes the archives that no build holds */
  countUploads(count: Count, clear: (tenant: string) => Promise<void>): void {
    this.count('uploads', count);
    this.#clearUploads = clear;
  }

  async useOf(tenant: string): Promise<TenantUse> {
    await this.#measure(tenant);
    return this.#quotas.useOf(tenant);
  }

  /** Call before a start, which the quotas then admit or refuse at once. */
  async prepare(tenant: string, moreBytes: number): Promise<void> {
    if (this.#tenants.of(tenant).storageBytes === null) return;
    await this.#measure(tenant);
    if (this.#quotas.hasStorage(tenant, moreBytes)) return;
    await this.#clearUploads(tenant);
    await this.#measure(tenant);
  }

  /** @throws QuotaError; errors of `save` */
  async save<T>(tenant: string, save: () => Promise<T>, { frees, moreBytes = 1 }: StorageNeed = {}): Promise<T> {
    if (this.#tenants.of(tenant).storageBytes === null) return await save();
    const more = moreBytes - (frees === undefined ? 0 : countedSize(frees).diskMib * MIB);
    const before = this.#last.get(tenant) ?? Promise.resolve();
    const turn = before.then(async () => {
      await this.prepare(tenant, more);
      this.#quotas.requireStorage(tenant, more);
      return await save();
    });
    const settled = turn.catch((error: unknown) => ignore(error, 'reported to the caller'));
    this.#last.set(tenant, settled);
    try {
      return await turn;
    } finally {
      if (this.#last.get(tenant) === settled) this.#last.delete(tenant);
    }
  }

  uploadRoomOf(tenant: string): UploadRoom {
    return {
      bytes: async () => {
        const { storageBytes } = this.#tenants.of(tenant);
        if (storageBytes === null) return Number.POSITIVE_INFINITY;
        await this.#measure(tenant, 'uploads');
        const { uploads: _own, ...others } = this.#quotas.useOf(tenant).storage;
        return Math.max(0, storageBytes - sumOf(others));
      },
      refusal: (held, wanted) => {
        this.#quotas.noteStored(tenant, { uploads: held });
        return this.#quotas.storageRefusal(tenant, wanted);
      },
    };
  }

  async #measure(tenant: string, without?: StorageKind): Promise<void> {
    const kinds = [...this.#counts].filter(([kind]) => kind !== without);
    const counted = await Promise.all(kinds.map(async ([kind, count]) => [kind, await count(tenant)] as const));
    this.#quotas.noteStored(tenant, Object.fromEntries(counted) as Partial<StorageUse>);
  }
}

async function snapshotBytes(world: StoredWorld, tenant: string): Promise<number> {
  const all = await world.snapshots();
  return all.filter((one) => ownerOf(one) === tenant).reduce((sum, { bytes }) => sum + bytes, 0);
}

async function volumeBytes(world: StoredWorld, tenant: string): Promise<number> {
  const own = (await world.volumes()).filter((one) => ownerOf(one) === tenant);
  return own.reduce((sum, { sizeMib }) => sum + sizeMib * MIB, 0);
}

async function pauseBytes(world: StoredWorld, tenant: string): Promise<number> {
  const [sandboxes, paused] = await Promise.all([world.list(), world.pausedBytes()]);
  return sandboxes.reduce((sum, one) => sum + (ownerOf(one) === tenant ? (paused.get(one.id) ?? 0) : 0), 0);
}
