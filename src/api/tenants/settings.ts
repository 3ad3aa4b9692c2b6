/**
 * Limits of tenants, and of all sandboxes together, and their files in the home.
 *
 *     HOME/tenants/NAME.json   one for each tenant; _default.json: what all inherit
 *     HOME/host/settings.json
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { WindowedBudget } from '../../base/request/model-limits.ts';
import { matchesAny } from '../../base/text/glob.ts';
import { RANGES, REQUEST_LIMITS } from '../../sandbox/contract/limits.ts';
import { modelField, windowedBudget } from '../../sandbox/contract/schema/models.ts';
import { list, notA, text, whole } from '../../sandbox/contract/schema/values.ts';
import { BLOCK, isBlock } from './blocks.ts';
import { TenantError } from './errors.ts';
import { JsonFiles } from './files.ts';
import { ALL_TENANTS, TENANT_FILE, TENANT_LIMITS } from './limits.ts';
import { checkTenantName } from './owner.ts';

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

/** `*` stands for any characters. */
const patterns = list(text(TENANT_LIMITS.patternCharactersMax).min(1), TENANT_LIMITS.patternsMax).readonly();

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
  allowModels: patterns.describe(
    'Models that its sandboxes may use, by their names at the model server; `*`: any part.',
  ),
  allowImages: patterns.describe('Container images, by complete names such as `docker.io/library/python:*`.'),
  allowTemplates: patterns.describe('Templates, beside those that it has built.'),
  allowLogins: patterns.describe(
    'Hosts of registries and package indexes at which this host logs in for it, such as `ghcr.io`.',
  ),
  cpusMax: whole(RANGES.cpus).nullable().describe('The most CPUs of one sandbox; null: any number.'),
  memoryMaxMib: whole(RANGES.memoryMib).nullable().describe('The most memory of one sandbox, MiB.'),
  diskMaxMib: whole(RANGES.diskMib).nullable().describe('The largest disk of one sandbox, MiB.'),
  timeoutMaxMs: whole(RANGES.timeoutMs)
    .nullable()
    .describe('The longest timeout of one sandbox, which one without a timeout gets; null: any, and none.'),
};
const ceiling = z.object(ceilingFields);
export type Ceiling = z.infer<typeof ceiling>;
/** The most of one sandbox. */
export type Sizes = Pick<Ceiling, 'cpusMax' | 'memoryMaxMib' | 'diskMaxMib' | 'timeoutMaxMs'>;
const ANY_SIZE: Sizes = { cpusMax: null, memoryMaxMib: null, diskMaxMib: null, timeoutMaxMs: null };
/** Of a tenant for which nothing is set. */
export const UNSET_CEILING: Ceiling = {
  allowHosted: [],
  allowNet: [],
  allowFields: [],
  allowModels: ['*'],
  allowImages: ['*'],
  allowTemplates: ['*'],
  allowLogins: [],
  ...ANY_SIZE,
};

/** What the operator has set for one tenant, or for all: what is not there is inherited. */
const settings = z.object({
  ...quotas.shape,
  ...ceilingFields,
  // The document of the REST interface can't say this, so it is refused here: a typing error must not widen a block.
  allowNet: list(net.refine(isBlock, netError), TENANT_LIMITS.netsMax).readonly(),
  /** Limit of its sandboxes' model use together, beside their own budgets. `null` for unlimited. */
  modelBudget: windowedBudget.nullable(),
});
type Settings = z.infer<typeof settings>;
export type TenantSetting = keyof Settings;
type OwnSettings = Partial<Settings>;

const fileShape = { name: z.string().regex(TENANT_FILE), ...settings.partial().shape };
// A file of a later release may have limits that this one does not know.
type TenantFile = OwnSettings & { readonly name: string };
const tenantFile = z.preprocess(ofEarlierRelease, z.strictObject(fileShape)) as z.ZodType<TenantFile>;

/** Earlier releases wrote every setting, so that those at their lowest may never have been set: they are inherited. */
const earlierFile = z.object({
  name: fileShape.name,
  // Before, there was one limit for the tokens of prompts and answers together.
  quotas: quotas.extend({ tokensPerDay: amount.default(null) }),
  allowHosted: fileShape.allowHosted,
  allowNet: fileShape.allowNet,
  allowFields: fileShape.allowFields,
  modelBudget: fileShape.modelBudget,
});

function ofEarlierRelease(raw: unknown): unknown {
  const earlier = earlierFile.safeParse(raw).data;
  if (earlier === undefined) return raw;
  const { name, quotas: old, modelBudget, ...ceilings } = earlier;
  const { tokensPerDay, ...limits } = old;
  const budget = modelBudget === undefined ? budgetOfDay(tokensPerDay) : modelBudget;
  const given = Object.entries({ ...limits, ...ceilings, modelBudget: budget });
  return { name, ...Object.fromEntries(given.filter(([, value]) => !isLowest(value))) };
}

const isLowest = (value: unknown): boolean => value == null || (Array.isArray(value) && value.length === 0);

export interface TenantInfo extends Ceiling {
  /** `_default`: what tenants inherit. */
  readonly name: string;
  readonly quotas: Quotas;
  readonly modelBudget: WindowedBudget | null;
  /** Settings that are its own; the others are those of `_default`. */
  readonly own: readonly TenantSetting[];
}

/** Keeps an old limit: it applies to prompts and to answers. */
function budgetOfDay(tokensPerDay: number | null): WindowedBudget | null {
  if (tokensPerDay === null) return null;
  const { min, max } = RANGES.modelBudget;
  const tokens = Math.max(min, Math.min(max, Math.floor(tokensPerDay)));
  return { inputTokens: tokens, outputTokens: tokens, windowMs: DAY_MS };
}

export type TenantChange = Partial<Readonly<OwnSettings>> & {
  /** Settings that are inherited from now on. */
  readonly inherit?: readonly TenantSetting[];
};

export const NO_QUOTAS: Quotas = { sandboxes: null, memoryMib: null, startsPerSecond: null, storageBytes: null };
const UNSET: Settings = { ...NO_QUOTAS, ...UNSET_CEILING, modelBudget: null };
export const TENANT_SETTINGS = Object.keys(UNSET) as readonly TenantSetting[];
export const unset = (name: string): TenantInfo => infoOf(name, {}, {});

/** A tenant's own settings come before those of all tenants. */
function infoOf(name: string, own: OwnSettings, inherited: OwnSettings): TenantInfo {
  const { sandboxes, memoryMib, startsPerSecond, storageBytes, ...rest } = { ...UNSET, ...inherited, ...own };
  const isOwn = TENANT_SETTINGS.filter((setting) => own[setting] !== undefined);
  return { name, quotas: { sandboxes, memoryMib, startsPerSecond, storageBytes }, ...rest, own: isOwn };
}

function checkName(name: string): void {
  if (name !== ALL_TENANTS) checkTenantName(name);
}

const SETTINGS = 'settings';
const hostFile = z.object({
  name: z.literal(SETTINGS),
  /** Limit of all sandboxes' model use together. `null` for unlimited. */
  modelBudget: windowedBudget.nullable(),
  /** No new sandboxes start. Earlier releases do not write it. */
  cordoned: z.boolean().default(false),
});
type HostFile = z.infer<typeof hostFile>;
export type HostSettings = Readonly<Omit<HostFile, 'name'>>;
/** What is not named stays. */
export type HostChange = Partial<HostSettings>;

const filesOf = (homeDir: string): JsonFiles<TenantFile> =>
  new JsonFiles({
    dir: join(homeDir, 'tenants'),
    what: 'the tenant',
    name: TENANT_FILE,
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
  readonly #files: JsonFiles<TenantFile>;
  readonly #own: Map<string, OwnSettings>;

  /** @throws TenantError `file_failed`, since no sandbox may start without a limit that was set */
  constructor(homeDir: string) {
    this.#files = filesOf(homeDir);
    this.#own = new Map(this.#files.readAll().map(({ name, ...own }) => [name, own]));
  }

  /** Tenants with settings of their own, sorted by name. */
  list(): readonly TenantInfo[] {
    const names = [...this.#own.keys()].filter((name) => name !== ALL_TENANTS);
    return names.sort().map((name) => this.get(name));
  }

  /** With what it inherits. @throws TenantError `invalid` */
  get(name: string): TenantInfo {
    checkName(name);
    const inherited = name === ALL_TENANTS ? {} : this.#own.get(ALL_TENANTS);
    return infoOf(name, this.#own.get(name) ?? {}, inherited ?? {});
  }

  of(name: string): Quotas {
    return this.get(name).quotas;
  }

  sizesOf(name: string): Sizes {
    return this.get(name);
  }

  mayLogIn(name: string, host: string): boolean {
    return matchesAny(this.get(name).allowLogins, host);
  }

  /** Changes only the given settings, at once. @throws TenantError `file_failed`, `invalid` */
  set(name: string, { inherit = [], ...change }: TenantChange): TenantInfo {
    checkName(name);
    const named = inherit.find((setting) => change[setting] !== undefined);
    if (named !== undefined) throw new TenantError('invalid', `${named} can’t be set and inherited`);
    const changed = Object.entries({ ...this.#own.get(name), ...change });
    const kept = changed.filter(([key, value]) => value !== undefined && !inherit.some((setting) => setting === key));
    const own: OwnSettings = Object.fromEntries(kept);
    this.#files.write({ name, ...own });
    this.#own.set(name, own);
    return this.get(name);
  }

  /** @returns whether something was set. @throws TenantError `file_failed` */
  remove(name: string): boolean {
    this.#files.remove(name);
    return this.#own.delete(name);
  }
}

/** The settings of the host. Reads the file once; only this object changes it afterwards. */
export class HostStore {
  readonly #files: JsonFiles<HostFile>;
  #settings: HostSettings;

  /** @throws TenantError `file_failed`, since no model may be asked without a limit that was set */
  constructor(homeDir: string) {
    this.#files = hostFilesOf(homeDir);
    const { modelBudget = null, cordoned = false } = this.#files.readAll()[0] ?? {};
    this.#settings = { modelBudget, cordoned };
  }

  get(): HostSettings {
    return this.#settings;
  }

  /** Holds at once. @throws TenantError `file_failed` */
  set(change: HostChange): HostSettings {
    const { modelBudget = this.#settings.modelBudget, cordoned = this.#settings.cordoned } = change;
    const changed = { modelBudget, cordoned };
    this.#files.write({ name: SETTINGS, ...changed });
    this.#settings = changed;
    return changed;
  }
}
