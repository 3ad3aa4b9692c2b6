/**
 * Tracks each tenant's usage, and decides whether it may use more. Counts change in one step with the decision, so
 * concurrent requests never exceed a quota together.
 *
 *     admit ──► reserved ─┬─ runsAs(id) ──► counted by id ◄── changes of the control plane
 *                         └─ release
 */
import { assert } from '../../base/assert.ts';
import type { Clock } from '../../base/clock.ts';
import { bytes } from '../../base/text/bytes.ts';
import { TokenBucket } from '../../base/token-bucket.ts';
import { MIB } from '../../base/units.ts';
import type { ControlPlane, SandboxInfo } from '../../sandbox/contract/control.ts';
import type { StartAsked, StartGate, StartReservation } from '../../sandbox/start/start-gate.ts';
import { checkSize } from './ceiling.ts';
import type { QuotaError } from './errors.ts';
import { TENANT_LIMITS } from './limits.ts';
import { ownerName, ownerOf } from './owner.ts';
import { QuotaRefusals } from './quota-refusals.ts';
import type { Quotas, Sizes, TenantStore } from './settings.ts';
import { countedSize, STORAGE_KINDS, type StorageUse, sumOf, type TenantUse } from './usage.ts';

interface Counted {
  readonly tenant: string;
  readonly memoryMib: number;
  readonly diskMib: number;
}

/** Of tenants. Without `sizesOf`, sandboxes may have any size; without `mayLogIn`, the host logs in nowhere for them. */
export type TenantLimits = Pick<TenantStore, 'of'> & {
  sizesOf?(tenant: string): Partial<Sizes>;
  mayLogIn?(tenant: string, host: string): boolean;
};

export interface MemorySharing {
  /** If true, clones of all tenants share pages of their template's RAM; otherwise only those of the same tenant. */
  readonly isAcross: boolean;
  /** True if a caller other than the operator could get a member of a pool. */
  hasTenants(): boolean;
}

const NOTHING: StorageUse = { snapshots: 0, pauses: 0, disks: 0, volumes: 0, templates: 0, uploads: 0, events: 0 };
const APART: MemorySharing = { isAcross: false, hasTenants: () => true };

export class TenantQuotas implements StartGate {
  readonly refusals = new QuotaRefusals();
  readonly #quotas: TenantLimits;
  readonly #clock: Clock;
  readonly #sharing: MemorySharing;
  readonly #isCordoned: () => boolean;
  readonly #sandboxes = new Map<string, Counted>();
  /** Starts in progress; those with `isNew` also count as sandboxes. */
  readonly #reserved = new Set<Counted & { readonly isNew: boolean; readonly id: string | null }>();
  /** Owners of the sandboxes that ended last, whose model requests may end after them. */
  readonly #ended = new Map<string, string>();
  readonly #starts = new Map<string, TokenBucket>();
  /** What each tenant with a quota of storage had beside live disks when that was last measured. */
  readonly #stored = new Map<string, StorageUse>();

  /**
   * @param sharing by default, tenants share no memory, and there are some
   * @param isCordoned by default, never
   */
  constructor(quotas: TenantLimits, clock: Clock, sharing: MemorySharing = APART, isCordoned = () => false) {
    this.#quotas = quotas;
    this.#clock = clock;
    this.#sharing = sharing;
    this.#isCordoned = isCordoned;
  }

  get isCordoned(): boolean {
    return this.#isCordoned();
  }

  /** Counts the sandboxes of a control plane from now on. @returns a function that stops it */
  async watch(control: Pick<ControlPlane, 'list' | 'onChange'>): Promise<() => void> {
    let changed: Set<string> | null = new Set();
    const stop = control.onChange((info) => {
      changed?.add(info.id);
      this.#note(info);
    });
    // A change that arrived meanwhile is newer than the list: an ended sandbox must not count again.
    for (const info of await control.list()) if (!changed.has(info.id)) this.#note(info);
    changed = null;
    return stop;
  }

  /**
   * Begins a template build, whose VMs count like one start, and whose result has that RAM at most on the disk. Call the
   * returned function at its end.
   * @throws QuotaError
   */
  admitBuild(tenant: string | null, memoryMib: number): () => void {
    if (tenant === null) return () => undefined;
    const reserved = this.#reserve({ tenant, memoryMib, diskMib: memoryMib }, false);
    return () => void this.#reserved.delete(reserved);
  }

  /** Storage as last measured. */
  useOf(tenant: string): TenantUse {
    const own = [...this.#sandboxes.values(), ...this.#reserved].filter((one) => one.tenant === tenant);
    // A sandbox that is being resumed already counts, but without memory.
    const sandboxes = own.filter((one) => !('isNew' in one) || one.isNew).length;
    const memoryMib = own.reduce((sum, one) => sum + one.memoryMib, 0);
    const disks = MIB * own.reduce((sum, one) => sum + one.diskMib, 0);
    const storage = { ...(this.#stored.get(tenant) ?? NOTHING), disks };
    return { sandboxes, memoryMib, storageBytes: sumOf(storage), storage };
  }

  /** @param stored what was measured, without live disks */
  noteStored(tenant: string, stored: Partial<StorageUse>): void {
    this.#stored.set(tenant, { ...(this.#stored.get(tenant) ?? NOTHING), ...stored });
  }

  hasStorage(tenant: string, moreBytes: number): boolean {
    const { storageBytes: most } = this.#quotas.of(tenant);
    return most === null || this.useOf(tenant).storageBytes + moreBytes <= most;
  }

  /** @throws QuotaError */
  requireStorage(tenant: string, moreBytes: number): void {
    if (!this.hasStorage(tenant, moreBytes)) throw this.storageRefusal(tenant, moreBytes);
  }

  storageRefusal(tenant: string, moreBytes: number): QuotaError {
    const { storageBytes: used, storage } = this.useOf(tenant);
    const kinds = STORAGE_KINDS.filter((kind) => storage[kind] > 0).map((kind) => `${kind} ${bytes(storage[kind])}`);
    const of = kinds.length === 0 ? '' : ` (${kinds.join(', ')})`;
    const wanted = moreBytes > 1 ? `, ${moreBytes} more wanted` : '';
    const most = this.#quotas.of(tenant).storageBytes ?? used;
    return this.refusals.refuse(tenant, 'storage', `${used} of ${most} bytes of storage are used${of}${wanted}`);
  }

  ownerOf(annotations: SandboxInfo['annotations']): string {
    return ownerName(ownerOf({ annotations }));
  }

  sharersOf(annotations: SandboxInfo['annotations'] | null): string | null {
    if (this.#sharing.isAcross) return 'all';
    if (annotations !== null) return this.ownerOf(annotations);
    return this.#sharing.hasTenants() ? null : this.ownerOf({});
  }

  timeoutMaxMs(annotations: SandboxInfo['annotations']): number | null {
    const tenant = ownerOf({ annotations });
    return tenant === null ? null : (this.#quotas.sizesOf?.(tenant).timeoutMaxMs ?? null);
  }

  mayLogIn(annotations: SandboxInfo['annotations'], host: string): boolean {
    const tenant = ownerOf({ annotations });
    return tenant === null || (this.#quotas.mayLogIn?.(tenant, host) ?? false);
  }

  admit({ annotations, id, resumes, ...size }: StartAsked): StartReservation {
    const tenant = ownerOf({ annotations });
    if (tenant === null) return { runsAs: () => undefined, release: () => undefined };
    const isNew = resumes === null;
    checkSize(size, { tenant, ceiling: this.#quotas.sizesOf?.(tenant) ?? {} });
    const { memoryMib, diskMib } = size;
    const { sandboxes } = this.#quotas.of(tenant);
    if (isNew) this.#requireRoom(tenant, 'sandboxes', this.useOf(tenant).sandboxes, 1, sandboxes);
    const counted = { tenant, memoryMib, diskMib };
    const reserved = this.#reserve(counted, isNew, id);
    return {
      runsAs: (runs) => {
        if (this.#reserved.delete(reserved)) this.#sandboxes.set(runs, counted);
      },
      release: () => void this.#reserved.delete(reserved),
    };
  }

  restores({ annotations, id, memoryMib, diskMib }: Parameters<StartGate['restores']>[0]): void {
    const tenant = ownerOf({ annotations });
    if (tenant !== null) this.#sandboxes.set(id, { tenant, memoryMib, diskMib });
  }

  abandoned(id: string): void {
    this.#end(id);
  }

  /** @throws QuotaError */
  #reserve(counted: Counted, isNew: boolean, id: string | null = null) {
    const { tenant, memoryMib, diskMib } = counted;
    const quotas = this.#quotas.of(tenant);
    const use = this.useOf(tenant);
    this.#requireRoom(tenant, 'memory', use.memoryMib, memoryMib, quotas.memoryMib);
    this.requireStorage(tenant, diskMib * MIB);
    this.#requireStart(tenant, quotas);
    const reserved = { ...counted, isNew, id };
    this.#reserved.add(reserved);
    return reserved;
  }

  /** Known before the VM starts: what a template has running may ask a model at once. */
  tenantOf(sandboxId: string): string | null {
    const known = this.#sandboxes.get(sandboxId)?.tenant ?? this.#ended.get(sandboxId);
    if (known !== undefined) return known;
    for (const { id, tenant } of this.#reserved) if (id === sandboxId) return tenant;
    return null;
  }

  #end(id: string): void {
    const known = this.#sandboxes.get(id);
    if (known === undefined) return;
    this.#sandboxes.delete(id);
    this.#ended.set(id, known.tenant);
    const [oldest] = this.#ended.keys();
    if (this.#ended.size > TENANT_LIMITS.endedMax && oldest !== undefined) this.#ended.delete(oldest);
  }

  #note(info: SandboxInfo): void {
    const tenant = ownerOf(info);
    if (tenant === null) return;
    if (info.status === 'ended') this.#end(info.id);
    else this.#sandboxes.set(info.id, { tenant, ...countedSize(info) });
  }

  #requireRoom(tenant: string, quota: 'sandboxes' | 'memory', used: number, more: number, most: number | null): void {
    assert(used >= 0, 'more was released than used');
    if (most === null || used + more <= most) return;
    const what = quota === 'memory' ? 'MiB of memory' : quota;
    const wanted = more > 1 ? `, ${more} more wanted` : '';
    throw this.refusals.refuse(tenant, quota, `${used} of ${most} ${what} are used${wanted}`);
  }

  #requireStart(tenant: string, { startsPerSecond }: Quotas): void {
    if (startsPerSecond === null) {
      this.#starts.delete(tenant);
      return;
    }
    if (startsPerSecond === 0) throw this.refusals.refuse(tenant, 'starts', 'it allows 0 starts a second');
    const now = this.#clock.now();
    const limit = { size: Math.max(1, startsPerSecond), refillPerSecond: startsPerSecond };
    const bucket = this.#starts.get(tenant) ?? new TokenBucket(limit, now);
    bucket.setLimit(limit, now);
    this.#starts.set(tenant, bucket);
    // Whole starts: a bucket is open while a part of a token is left.
    const waitMs = bucket.waitForMs(1, now);
    if (waitMs > 0)
      throw this.refusals.refuse(tenant, 'starts', `all of its ${startsPerSecond} starts a second are used`, waitMs);
    bucket.spend(1);
  }
}
