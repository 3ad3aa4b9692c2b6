/**
 * Limits of tenants, and of all sandboxes together: files in the home, which commands write and a running daemon
 * watches.
 *
 *     HOME/tenants/NAME.json   one for each tenant
 *     HOME/host/settings.json
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import type { WindowedBudget } from '../../base/request/model-limits.ts';
import { RANGES } from '../../sandbox/contract/limits.ts';
import { JsonFiles, WatchedFiles } from './files.ts';
import { checkTenantName } from './keys.ts';
import { TENANT_NAME } from './limits.ts';

const DAY_MS = 24 * 3_600_000;

const amount = z.number().nonnegative().nullable();
const quotas = z.object({
  /** Live sandboxes, including paused ones. */
  sandboxes: amount,
  /** Memory of VMs in MiB. A growing VM counts with its maximum; a sandbox paused to disk counts none. */
  memoryMib: amount,
  /** Starts of VMs: new sandboxes, forks, resumes from disk. Allows that many at once. */
  startsPerSecond: amount,
  storageBytes: amount,
});
/** `null` for unlimited. */
export type Quotas = z.infer<typeof quotas>;

const whole = ({ min, max }: { readonly min: number; readonly max: number }) => z.int().min(min).max(max);
const modelBudget: z.ZodType<WindowedBudget> = z.strictObject({
  inputTokens: whole(RANGES.modelBudget).exactOptional(),
  outputTokens: whole(RANGES.modelBudget).exactOptional(),
  requests: whole(RANGES.modelBudget).exactOptional(),
  costNanoDollars: whole(RANGES.modelCostNanoDollars).exactOptional(),
  windowMs: whole(RANGES.modelWindowMs),
});

const tenantFile = z
  .object({
    name: z.string().regex(TENANT_NAME),
    // Earlier releases had one limit for the tokens of prompts and answers together.
    quotas: quotas.extend({ tokensPerDay: amount.default(null) }),
    /** Models that other hosts may serve for it, by the operator's keys; `all` for every one. */
    allowHosted: z.array(z.string()).readonly().default([]),
    /** Limit of its sandboxes' model use together, beside their own budgets. `null` for unlimited. */
    modelBudget: modelBudget.nullable().optional(),
  })
  .transform(({ quotas: { tokensPerDay, ...own }, modelBudget: budget, ...info }) => ({
    ...info,
    quotas: own,
    modelBudget: budget === undefined ? budgetOfDay(tokensPerDay) : budget,
  }));
export type TenantInfo = z.infer<typeof tenantFile>;

/** Keeps an old limit: it applies to prompts and to answers. */
function budgetOfDay(tokensPerDay: number | null): WindowedBudget | null {
  if (tokensPerDay === null) return null;
  const { min, max } = RANGES.modelBudget;
  const tokens = Math.max(min, Math.min(max, Math.floor(tokensPerDay)));
  return { inputTokens: tokens, outputTokens: tokens, windowMs: DAY_MS };
}

export type TenantChange = Partial<Quotas> & {
  readonly allowHosted?: readonly string[];
  readonly modelBudget?: WindowedBudget | null;
};

export const NO_QUOTAS: Quotas = { sandboxes: null, memoryMib: null, startsPerSecond: null, storageBytes: null };
export const unset = (name: string): TenantInfo => ({ name, quotas: NO_QUOTAS, allowHosted: [], modelBudget: null });

/** A tenant whose limits could never be read: running sandboxes continue, and nothing more may start. */
const closed = (name: string): TenantInfo => ({
  ...unset(name),
  quotas: { ...NO_QUOTAS, sandboxes: 0, startsPerSecond: 0 },
  modelBudget: { requests: 0, windowMs: DAY_MS },
});

const SETTINGS = 'settings';
const hostFile = z.object({
  name: z.literal(SETTINGS),
  /** Limit of all sandboxes' model use together. `null` for unlimited. */
  modelBudget: modelBudget.nullable(),
});
export type HostSettings = z.infer<typeof hostFile>;

const filesOf = (homeDir: string): JsonFiles<TenantInfo> =>
  new JsonFiles({
    dir: join(homeDir, 'tenants'),
    what: 'the tenant',
    name: TENANT_NAME,
    schema: tenantFile,
    nameOf: ({ name }) => name,
  });

const hostFilesOf = (homeDir: string): JsonFiles<HostSettings> =>
  new JsonFiles({
    dir: join(homeDir, 'host'),
    what: 'the host’s',
    name: /^settings$/,
    schema: hostFile,
    nameOf: ({ name }) => name,
  });

export class TenantStore {
  readonly #files: JsonFiles<TenantInfo>;

  constructor(homeDir: string) {
    this.#files = filesOf(homeDir);
  }

  /** Sorted by name. @throws TenantError `file_failed` */
  list(): readonly TenantInfo[] {
    return [...this.#files.names()].sort().map((name) => this.#files.read(name));
  }

  /** Without limits if none were set. @throws TenantError `file_failed`, `invalid` */
  get(name: string): TenantInfo {
    checkTenantName(name);
    return this.#files.names().includes(name) ? this.#files.read(name) : unset(name);
  }

  /** Changes only the given settings. @throws TenantError `file_failed`, `invalid` */
  set(name: string, { allowHosted, modelBudget: budget, ...change }: TenantChange): TenantInfo {
    const now = this.get(name);
    const changed = {
      name,
      quotas: { ...now.quotas, ...change },
      allowHosted: allowHosted ?? now.allowHosted,
      modelBudget: budget === undefined ? now.modelBudget : budget,
    };
    this.#files.write(changed);
    return changed;
  }
}

export class KnownTenants {
  readonly #files: WatchedFiles<TenantInfo>;
  #byName: ReadonlyMap<string, TenantInfo> = new Map();
  #ignored: ReadonlySet<string> = new Set();
  /** 0 if the directory could never be read. */
  #version = 0;

  constructor(homeDir: string, clock: Clock, log: Log) {
    this.#files = new WatchedFiles(filesOf(homeDir), clock, log);
  }

  /** The last known ones while the tenant's file can't be read; without any, nothing more may start. Never throws. */
  of(tenant: string): Quotas {
    return this.#infoOf(tenant)?.quotas ?? NO_QUOTAS;
  }

  /** Hosted models, with the same fallback. */
  hostedOf(tenant: string): readonly string[] {
    return this.#infoOf(tenant)?.allowHosted ?? [];
  }

  /** Model budget, with the same fallback; without a known one, requests are refused. `null` for unlimited. */
  budgetOf(tenant: string): WindowedBudget | null {
    return this.#infoOf(tenant)?.modelBudget ?? null;
  }

  /** Sorted by name, without those that could never be read. */
  list(): readonly TenantInfo[] {
    return [...this.#current().values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  #infoOf(tenant: string): TenantInfo | undefined {
    const known = this.#current().get(tenant);
    const isRead = this.#version > 0 && !this.#ignored.has(tenant);
    return known ?? (isRead ? undefined : closed(tenant));
  }

  #current(): ReadonlyMap<string, TenantInfo> {
    const current = this.#files.current();
    if (current !== null && current.version !== this.#version) {
      const { values, ignored } = current;
      const stay = [...this.#byName].filter(([name]) => ignored.has(name));
      this.#byName = new Map([...stay, ...values.map((info) => [info.name, info] as const)]);
      this.#ignored = ignored;
      this.#version = current.version;
    }
    return this.#byName;
  }
}

/** The settings of the host, for the commands. */
export class HostStore {
  readonly #files: JsonFiles<HostSettings>;

  constructor(homeDir: string) {
    this.#files = hostFilesOf(homeDir);
  }

  /** Without limits if none were set. @throws TenantError `file_failed` */
  get(): HostSettings {
    const isSet = this.#files.names().includes(SETTINGS);
    return isSet ? this.#files.read(SETTINGS) : { name: SETTINGS, modelBudget: null };
  }

  /** @throws TenantError `file_failed` */
  set(change: Pick<HostSettings, 'modelBudget'>): HostSettings {
    const changed = { name: SETTINGS, ...change } as const;
    this.#files.write(changed);
    return changed;
  }
}

/** The settings of the host, as a running daemon knows them. */
export class KnownHost {
  readonly #files: WatchedFiles<HostSettings>;
  #last: HostSettings;

  /** @throws TenantError `file_failed`, since a daemon must not start without a limit that was set */
  constructor(homeDir: string, clock: Clock, log: Log) {
    this.#last = new HostStore(homeDir).get();
    this.#files = new WatchedFiles(hostFilesOf(homeDir), clock, log);
  }

  /** The last known one while the file can't be read, if any. Never throws. */
  budget(): WindowedBudget | null {
    const current = this.#files.current();
    if (current !== null && current.ignored.size === 0) {
      this.#last = current.values[0] ?? { name: SETTINGS, modelBudget: null };
    }
    return this.#last.modelBudget;
  }
}
