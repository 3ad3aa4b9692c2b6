/**
 * Limits of tenants, and of all sandboxes together, and their files in the home.
 *
 *     HOME/tenants/NAME.json   one for each tenant
 *     HOME/host/settings.json
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { WindowedBudget } from '../../base/request/model-limits.ts';
import { RANGES, REQUEST_LIMITS } from '../../sandbox/contract/limits.ts';
import { modelField, windowedBudget } from '../../sandbox/contract/schema/models.ts';
import { list, notA, text } from '../../sandbox/contract/schema/values.ts';
import { BLOCK, isBlock } from './blocks.ts';
import { JsonFiles } from './files.ts';
import { checkTenantName } from './keys.ts';
import { TENANT_LIMITS, TENANT_NAME } from './limits.ts';

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

const netError = { error: notA('an IPv4 address or block, such as 10.1.0.0/16') };
const net = z.string().regex(BLOCK, netError);

/** What the operator allows a tenant to ask for beyond its own: see `ceiling.ts`. */
export const ceilingFields = {
  allowHosted: list(text(REQUEST_LIMITS.modelNameCharactersMax), TENANT_LIMITS.hostedMax)
    .readonly()
    .describe('Models that other hosts may serve for it, by the operator’s keys; `all`: every one.'),
  allowNet: list(net, TENANT_LIMITS.netsMax)
    .readonly()
    .describe('IPv4 blocks inside private ranges that its network rules may open.'),
  allowFields: list(modelField, REQUEST_LIMITS.allowedFieldsMax)
    .readonly()
    .describe('Fields, with all below them, that its `models.allowFields` may name.'),
};
const ceiling = z.object(ceilingFields);
export type Ceiling = z.infer<typeof ceiling>;
export const LOWEST_CEILING: Ceiling = { allowHosted: [], allowNet: [], allowFields: [] };

const tenantFile = z
  .object({
    name: z.string().regex(TENANT_NAME),
    // Earlier releases had one limit for the tokens of prompts and answers together.
    quotas: quotas.extend({ tokensPerDay: amount.default(null) }),
    // Earlier releases had only hosted models, and before none of these.
    allowHosted: ceilingFields.allowHosted.default(LOWEST_CEILING.allowHosted),
    // The document of the REST interface can't say this, so it is refused here: a typing error must not widen a block.
    allowNet: list(net.refine(isBlock, netError), TENANT_LIMITS.netsMax).readonly().default(LOWEST_CEILING.allowNet),
    allowFields: ceilingFields.allowFields.default(LOWEST_CEILING.allowFields),
    /** Limit of its sandboxes' model use together, beside their own budgets. `null` for unlimited. */
    modelBudget: windowedBudget.nullable().optional(),
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

export type TenantChange = Partial<Quotas> &
  Partial<Readonly<Ceiling>> & { readonly modelBudget?: WindowedBudget | null };

export const NO_QUOTAS: Quotas = { sandboxes: null, memoryMib: null, startsPerSecond: null, storageBytes: null };
export const unset = (name: string): TenantInfo => ({ name, quotas: NO_QUOTAS, ...LOWEST_CEILING, modelBudget: null });

const SETTINGS = 'settings';
const hostFile = z.object({
  name: z.literal(SETTINGS),
  /** Limit of all sandboxes' model use together. `null` for unlimited. */
  modelBudget: windowedBudget.nullable(),
});
type HostFile = z.infer<typeof hostFile>;
export type HostSettings = Omit<HostFile, 'name'>;

const filesOf = (homeDir: string): JsonFiles<TenantInfo> =>
  new JsonFiles({
    dir: join(homeDir, 'tenants'),
    what: 'the tenant',
    name: TENANT_NAME,
    schema: tenantFile,
    nameOf: ({ name }) => name,
  });

const hostFilesOf = (homeDir: string): JsonFiles<HostFile> =>
  new JsonFiles({
    dir: join(homeDir, 'host'),
    what: 'the host’s',
    name: /^settings$/,
    schema: hostFile,
    nameOf: ({ name }) => name,
  });

/** The settings of tenants. Reads the files once; only this object changes them afterwards. */
export class TenantStore {
  readonly #files: JsonFiles<TenantInfo>;
  readonly #byName: Map<string, TenantInfo>;

  /** @throws TenantError `file_failed`, since no sandbox may start without a limit that was set */
  constructor(homeDir: string) {
    this.#files = filesOf(homeDir);
    this.#byName = new Map(this.#files.readAll().map((info) => [info.name, info]));
  }

  /** Sorted by name. */
  list(): readonly TenantInfo[] {
    return [...this.#byName.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Without limits if none were set. */
  get(name: string): TenantInfo {
    return this.#byName.get(name) ?? unset(name);
  }

  of(name: string): Quotas {
    return this.get(name).quotas;
  }

  /** Changes only the given settings, at once. @throws TenantError `file_failed`, `invalid` */
  set(name: string, change: TenantChange): TenantInfo {
    checkTenantName(name);
    const now = this.get(name);
    const { allowHosted, allowNet, allowFields, modelBudget: budget, ...quotas } = change;
    const changed = {
      name,
      quotas: { ...now.quotas, ...quotas },
      allowHosted: allowHosted ?? now.allowHosted,
      allowNet: allowNet ?? now.allowNet,
      allowFields: allowFields ?? now.allowFields,
      modelBudget: budget === undefined ? now.modelBudget : budget,
    };
    this.#files.write(changed);
    this.#byName.set(name, changed);
    return changed;
  }

  /** @returns whether something was set. @throws TenantError `file_failed` */
  remove(name: string): boolean {
    this.#files.remove(name);
    return this.#byName.delete(name);
  }
}

/** The settings of the host. Reads the file once; only this object changes it afterwards. */
export class HostStore {
  readonly #files: JsonFiles<HostFile>;
  #modelBudget: WindowedBudget | null;

  /** @throws TenantError `file_failed`, since no model may be asked without a limit that was set */
  constructor(homeDir: string) {
    this.#files = hostFilesOf(homeDir);
    this.#modelBudget = this.#files.readAll()[0]?.modelBudget ?? null;
  }

  get(): HostSettings {
    return { modelBudget: this.#modelBudget };
  }

  /** Holds at once. @throws TenantError `file_failed` */
  set({ modelBudget: budget }: HostSettings): HostSettings {
    this.#files.write({ name: SETTINGS, modelBudget: budget });
    this.#modelBudget = budget;
    return this.get();
  }
}
