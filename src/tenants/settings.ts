/** What a tenant may use: one file per tenant in the home, `HOME/tenants/NAME.json`. */
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import { JsonFiles, WatchedFiles } from './files.ts';
import { checkTenantName } from './keys.ts';
import { TENANT_NAME } from './limits.ts';

const amount = z.number().nonnegative().nullable();
const quotas = z.object({
  /** Sandboxes that have not ended, paused ones included. */
  sandboxes: amount,
  /** Memory of VMs, MiB: the maximum of those that can grow; none for sandboxes paused to disk. */
  memoryMib: amount,
  /** Starts of VMs: new sandboxes, forks, resumes from disk. As many may come at once. */
  startsPerSecond: amount,
  /** Disk space of snapshots and pauses. */
  storageBytes: amount,
  /** Tokens of prompts and answers since midnight, UTC. */
  tokensPerDay: amount,
});
/** Null: unlimited. */
export type Quotas = z.infer<typeof quotas>;

const tenantFile = z.object({ name: z.string().regex(TENANT_NAME), quotas });
export type TenantInfo = z.infer<typeof tenantFile>;

export const NO_QUOTAS: Quotas = {
  sandboxes: null,
  memoryMib: null,
  startsPerSecond: null,
  storageBytes: null,
  tokensPerDay: null,
};

const filesOf = (homeDir: string): JsonFiles<TenantInfo> =>
  new JsonFiles({
    dir: join(homeDir, 'tenants'),
    what: 'the tenant',
    name: TENANT_NAME,
    schema: tenantFile,
    nameOf: ({ name }) => name,
  });

/** The tenants with quotas, for the commands. */
export class TenantStore {
  readonly #files: JsonFiles<TenantInfo>;

  constructor(homeDir: string) {
    this.#files = filesOf(homeDir);
  }

  /** By name. @throws TenantError `file_failed` */
  list(): readonly TenantInfo[] {
    return [...this.#files.names()].sort().map((name) => this.#files.read(name));
  }

  /** Without limits if nothing was set. @throws TenantError `file_failed`, `invalid` */
  get(name: string): TenantInfo {
    checkTenantName(name);
    return this.#files.names().includes(name)
      ? this.#files.read(name)
      : { name, quotas: NO_QUOTAS };
  }

  /** Changes the given quotas. @throws TenantError `file_failed`, `invalid` */
  set(name: string, change: Partial<Quotas>): TenantInfo {
    const changed = { name, quotas: { ...this.get(name).quotas, ...change } };
    this.#files.write(changed);
    return changed;
  }
}

/** The quotas as a running daemon knows them. */
export class KnownQuotas {
  readonly #files: WatchedFiles<TenantInfo>;
  #byName: ReadonlyMap<string, Quotas> = new Map();
  #version = 0;

  constructor(homeDir: string, clock: Clock, log: Log) {
    this.#files = new WatchedFiles(filesOf(homeDir), clock, log);
  }

  /** The last known ones while the tenant's file can't be read. Never throws. */
  of(tenant: string): Quotas {
    const current = this.#files.current();
    if (current !== null && current.version !== this.#version) {
      const { values, ignored } = current;
      const stay = [...this.#byName].filter(([name]) => ignored.has(name));
      this.#byName = new Map([
        ...stay,
        ...values.map(({ name, quotas: own }) => [name, own] as const),
      ]);
      this.#version = current.version;
    }
    return this.#byName.get(tenant) ?? NO_QUOTAS;
  }
}
