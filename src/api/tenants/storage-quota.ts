/**
 * Limits the disk space of a tenant's snapshots and pauses. The size of a save is known only afterwards. So the
 * saves of a tenant run one after another, one may begin below the quota, and a tenant exceeds it by at most the last
 * one. Pauses by timeouts and idleness count and are not refused: the sandbox would be lost.
 */
import { ignore } from '../../base/ignore.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import type { QuotaRefusals } from './quota-refusals.ts';
import type { TenantStore } from './settings.ts';

type OwnWorld = Pick<ControlPlane, 'list' | 'snapshots'>;

export class StorageQuota {
  readonly #quotas: Pick<TenantStore, 'of'>;
  readonly #pausedBytes: () => Promise<ReadonlyMap<string, number>>;
  readonly #refusals: QuotaRefusals;
  readonly #last = new Map<string, Promise<unknown>>();

  /** @param pausedBytes returns the space of each pause, by the sandbox's id */
  constructor(
    quotas: Pick<TenantStore, 'of'>,
    pausedBytes: () => Promise<ReadonlyMap<string, number>>,
    refusals: QuotaRefusals,
  ) {
    this.#quotas = quotas;
    this.#pausedBytes = pausedBytes;
    this.#refusals = refusals;
  }

  /** @throws QuotaError; errors of `save` */
  async save<T>(tenant: string, own: OwnWorld, save: () => Promise<T>): Promise<T> {
    if (this.#quotas.of(tenant).storageBytes === null) return await save();
    const before = this.#last.get(tenant) ?? Promise.resolve();
    const turn = before.then(async () => {
      const { storageBytes } = this.#quotas.of(tenant);
      const used = await this.#usedBytes(own);
      if (storageBytes !== null && used >= storageBytes) {
        throw this.#refusals.refuse(tenant, 'storage', `${used} of ${storageBytes} bytes of storage are used`);
      }
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

  async #usedBytes(own: OwnWorld): Promise<number> {
    const [snapshots, sandboxes, paused] = await Promise.all([own.snapshots(), own.list(), this.#pausedBytes()]);
    const ofSnapshots = snapshots.reduce((sum, { bytes }) => sum + bytes, 0);
    return sandboxes.reduce((sum, { id }) => sum + (paused.get(id) ?? 0), ofSnapshots);
  }
}
