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

const tenantFile = z.object({
  name: z.string().regex(TENANT_NAME),
  quotas,
  /** Models that other hosts may serve for it, by the operator's keys; `all`: every one. */
  allowHosted: z.array(z.string()).readonly().default([]),
});
export type TenantInfo = z.infer<typeof tenantFile>;
export type TenantChange = Partial<Quotas> & { readonly allowHosted?: readonly string[] };

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
      : { name, quotas: NO_QUOTAS, allowHosted: [] };
  }

  /** Changes what is given. @throws TenantError `file_failed`, `invalid` */
  set(name: string, { allowHosted, ...change }: TenantChange): TenantInfo {
    const now = this.get(name);
    const changed = {
      name,
      quotas: { ...now.quotas, ...change },
      allowHosted: allowHosted ?? now.allowHosted,
    };
    this.#files.write(changed);
    return changed;
  }
}

/** What tenants may use, as a running daemon knows it. */
export class KnownQuotas {
  readonly #files: WatchedFiles<TenantInfo>;
  #byName: ReadonlyMap<string, TenantInfo> = new Map();
  #version = 0;

  constructor(homeDir: string, clock: Clock, log: Log) {
    this.#files = new WatchedFiles(filesOf(homeDir), clock, log);
  }

  /** The last known ones while the tenant's file can't be read. Never throws. */
  of(tenant: string): Quotas {
    return this.#infoOf(tenant)?.quotas ?? NO_QUOTAS;
  }

  /** Likewise. */
  hostedOf(tenant: string): readonly string[] {
    return this.#infoOf(tenant)?.allowHosted ?? [];
  }

  #infoOf(tenant: string): TenantInfo | undefined {
    const current = this.#files.current();
    if (current !== null && current.version !== this.#version) {
      const { values, ignored } = current;
      const stay = [...this.#byName].filter(([name]) => ignored.has(name));
      this.#byName = new Map([...stay, ...values.map((info) => [info.name, info] as const)]);
      this.#version = current.version;
    }
    return this.#byName.get(tenant);
  }
}
