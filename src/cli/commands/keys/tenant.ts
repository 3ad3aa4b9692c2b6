/** `neurovisor tenant`: the quotas of tenants. */
import type { Administration } from '../../../api/tenants/administration.ts';
import { isValidKey } from '../../../api/tenants/keys.ts';
import { ALL_TENANTS } from '../../../api/tenants/limits.ts';
import {
  NO_QUOTAS,
  type Quotas,
  type TenantChange,
  type TenantInfo,
  type TenantSetting,
} from '../../../api/tenants/settings.ts';
import type { TenantUse } from '../../../api/tenants/usage.ts';
import { systemClock } from '../../../base/clock.ts';
import { type BudgetUse, budgetStates, type WindowedBudget } from '../../../base/request/model-limits.ts';
import { MIB } from '../../../base/units.ts';
import type { Cli } from '../../cli.ts';
import { administer } from '../../daemon/administer.ts';
import { UsageError } from '../../failure.ts';
import { budgetWords, parseSharedBudget } from '../../flags/model-budget.ts';
import { durationText, parseDuration, parseMemory } from '../../flags/options.ts';
import { withOption } from '../../flags/ranges.ts';
import type { Daemon } from '../../library/daemon.ts';
import { bytes, table } from '../../output/table.ts';
import { outcomeOf } from '../many.ts';

export interface QuotaFlags {
  readonly sandboxes?: string;
  readonly memory?: string;
  readonly starts?: string;
  readonly storage?: string;
  readonly modelBudget?: readonly string[];
  readonly allowHosted?: readonly string[];
  readonly allowNet?: readonly string[];
  readonly allowField?: readonly string[];
  readonly allowModel?: readonly string[];
  readonly allowImage?: readonly string[];
  readonly allowTemplate?: readonly string[];
  readonly allowLogin?: readonly string[];
  readonly maxCpus?: string;
  readonly maxMemory?: string;
  readonly maxDisk?: string;
  readonly maxTimeout?: string;
}

export interface TenantFlags {
  /** In place of a name. */
  readonly default?: boolean;
}

type Use = Partial<TenantUse> & {
  /** Null: nothing was used in this window, or there is none. */
  readonly modelBudget: BudgetUse | null;
};

/** Those with a key or with settings. */
export async function tenantList(cli: Cli): Promise<number> {
  const { keys, tenants, inherited } = await administer(cli, async (home) => ({
    keys: await home.keys(),
    tenants: await home.tenants(),
    inherited: await home.tenant(ALL_TENANTS),
  }));
  const known = new Map(tenants.map((one) => [one.name, one]));
  const names = [...new Set([...known.keys(), ...keys.map(({ tenant }) => tenant)])].sort();
  const list = names.map((name) => ({
    ...(known.get(name) ?? { ...inherited, name, own: [] }),
    keys: keys.filter((key) => key.tenant === name && isValidKey(key, systemClock.wall())).length,
  }));
  if (cli.json) cli.printJson(list);
  else cli.stdout.write(`${tenantTable(list)}\n`);
  return 0;
}

export function tenantTable(list: readonly (TenantInfo & { readonly keys: number })[]): string {
  const columns = [...QUOTAS, 'allowHosted', 'modelBudget'] as const;
  const rows = list.map((info) => [info.name, `${info.keys}`, ...columns.map((setting) => shownIn(info, setting))]);
  return table(['tenant', 'keys', ...columns.map((setting) => ROWS[setting].title)], rows);
}

export async function tenantShow(cli: Cli, given: string | undefined, flags: TenantFlags): Promise<number> {
  const name = nameOf(given, flags);
  const { info, use } = await administer(cli, async (home, daemon) => ({
    info: await home.tenant(name),
    use: daemon === null || name === ALL_TENANTS ? null : await useOf(home, daemon, name),
  }));
  if (cli.json) cli.printJson({ ...info, use });
  else cli.stdout.write(`${quotaTable(info, use)}\n`);
  return 0;
}

export async function tenantSet(cli: Cli, given: string | undefined, flags: QuotaFlags & TenantFlags): Promise<number> {
  const name = nameOf(given, flags);
  const change = changeOf(flags);
  if (Object.keys(change).length === 0) {
    throw new UsageError('no quota is named', 'see neurovisor tenant set --help');
  }
  const info = await administer(cli, (home) => home.setTenant(name, change));
  if (cli.json) cli.printJson(info);
  else cli.stdout.write(`${quotaTable(info, null)}\n`);
  return 0;
}

export async function tenantRemove(cli: Cli, name: string): Promise<number> {
  const removed = await administer(cli, (home) => outcomeOf(cli, name, () => home.removeTenant(name)));
  if (cli.json) cli.printJson(removed);
  else if (removed.ok) {
    const { revokedKeys, endedSandboxes, removedSnapshots, removedVolumes, erasedSaves } = removed;
    const counts = [
      countOf(revokedKeys, 'key', 'revoked'),
      ...(endedSandboxes > 0 ? [countOf(endedSandboxes, 'sandbox', 'ended')] : []),
      ...(removedSnapshots > 0 ? [countOf(removedSnapshots, 'snapshot', 'removed')] : []),
      ...(removedVolumes > 0 ? [countOf(removedVolumes, 'volume', 'removed')] : []),
      ...(erasedSaves ? ['encrypted saves unreadable'] : []),
    ];
    cli.stdout.write(`${name}: ${counts.join(', ')}; its audit logs stay\n`);
  }
  return removed.ok ? 0 : 1;
}

function countOf(count: number, what: string, done: string): string {
  const plural = what === 'sandbox' ? 'sandboxes' : `${what}s`;
  return `${count} ${count === 1 ? what : plural} ${done}`;
}

/** @throws UsageError */
function nameOf(name: string | undefined, flags: TenantFlags): string {
  if ((name === undefined) === (flags.default === true)) return name ?? ALL_TENANTS;
  throw new UsageError('expected the name of a tenant, or --default', 'see neurovisor tenant --help');
}

/** @throws UsageError */
export function changeOf(flags: QuotaFlags): TenantChange {
  const change: Record<string, unknown> = {};
  const inherit: TenantSetting[] = [];
  for (const setting of SETTINGS) {
    const { flag, option, read } = ROWS[setting];
    const given = flags[flag];
    if (given === undefined) continue;
    const words = typeof given === 'string' ? [given] : given;
    if (isAlone(option, INHERITED, words)) inherit.push(setting);
    else change[setting] = read(option, words);
  }
  return inherit.length === 0 ? change : { ...change, inherit };
}

/** @param use null: no daemon runs */
function quotaTable(info: TenantInfo, use: Use | null): string {
  const { modelBudget, own } = info;
  const used = (setting: TenantSetting): string => {
    if (setting === 'modelBudget') return budgetUseText(modelBudget, use?.modelBudget ?? null);
    const value = isUsed(setting) ? use?.[setting] : undefined;
    return value === undefined ? '-' : ROWS[setting].text(value as never);
  };
  const rows = SETTINGS.map((setting) => {
    const source = own.includes(setting) ? 'own' : 'default';
    return [ROWS[setting].title, shownIn(info, setting), used(setting), source];
  });
  const kinds = Object.entries(use?.storage ?? {}).map(([kind, used]) => [`  ${kind}`, '', bytes(used), '']);
  rows.splice(SETTINGS.indexOf('storageBytes') + 1, 0, ...kinds);
  return table(['quota', 'limit', 'used', 'source'], rows);
}

function budgetUseText(budget: WindowedBudget | null, used: BudgetUse | null): string {
  if (budget === null || used === null) return '-';
  const states = budgetStates(budget, used, systemClock.wall());
  return budgetWords(Object.fromEntries(states.map((state) => [state.kind, state.used])));
}

const NONE = 'none';
const INHERITED = 'default';
const words = (list: readonly string[]): string => list.join(', ') || NONE;

/** True for this word, which must be the only one. @throws UsageError */
function isAlone(option: string, word: string, values: readonly string[]): boolean {
  if (!values.includes(word)) return false;
  if (values.length === 1) return true;
  throw new UsageError(`${option}: ${word} and other values`, `use values, or ${word} alone`);
}

/** @throws UsageError */
const list = (option: string, values: readonly string[]): readonly string[] =>
  isAlone(option, NONE, values) ? [] : values;

const count = (value: number): string => `${value}`;
const ofMib = (mib: number): string => bytes(mib * MIB);
const budget = (_option: string, values: readonly string[]): WindowedBudget | null => parseSharedBudget(values) ?? null;
const storage = (option: string, values: readonly string[]): number | null => inBytes(size(option, values));

interface SettingRow<T> {
  readonly flag: keyof QuotaFlags;
  readonly option: string;
  readonly title: string;
  /** @throws UsageError */
  readonly read: (option: string, words: readonly string[]) => T;
  readonly text: (value: NonNullable<T>) => string;
}

const ROWS: { readonly [K in TenantSetting]: SettingRow<Required<TenantChange>[K]> } = {
  sandboxes: { flag: 'sandboxes', option: '--sandboxes', title: 'sandboxes', read: whole, text: count },
  memoryMib: { flag: 'memory', option: '--memory', title: 'memory', read: size, text: ofMib },
  startsPerSecond: { flag: 'starts', option: '--starts', title: 'starts/s', read: number, text: count },
  storageBytes: { flag: 'storage', option: '--storage', title: 'storage', read: storage, text: bytes },
  modelBudget: {
    flag: 'modelBudget',
    option: '--model-budget',
    title: 'model budget',
    read: budget,
    text: budgetWords,
  },
  allowHosted: { flag: 'allowHosted', option: '--allow-hosted', title: 'hosted models', read: list, text: words },
  allowFields: { flag: 'allowField', option: '--allow-field', title: 'model fields', read: list, text: words },
  allowNet: { flag: 'allowNet', option: '--allow-net', title: 'private networks', read: list, text: words },
  allowModels: { flag: 'allowModel', option: '--allow-model', title: 'models', read: list, text: words },
  allowImages: { flag: 'allowImage', option: '--allow-image', title: 'images', read: list, text: words },
  allowTemplates: { flag: 'allowTemplate', option: '--allow-template', title: 'templates', read: list, text: words },
  allowLogins: { flag: 'allowLogin', option: '--allow-login', title: 'logins', read: list, text: words },
  cpusMax: { flag: 'maxCpus', option: '--max-cpus', title: 'CPUs each', read: whole, text: count },
  memoryMaxMib: { flag: 'maxMemory', option: '--max-memory', title: 'memory each', read: size, text: ofMib },
  diskMaxMib: { flag: 'maxDisk', option: '--max-disk', title: 'disk each', read: size, text: ofMib },
  timeoutMaxMs: {
    flag: 'maxTimeout',
    option: '--max-timeout',
    title: 'timeout each',
    read: timeout,
    text: durationText,
  },
};
const SETTINGS = Object.keys(ROWS) as readonly TenantSetting[];
const QUOTAS = Object.keys(NO_QUOTAS) as readonly (keyof Quotas)[];
const isQuota = (setting: TenantSetting): setting is keyof Quotas => QUOTAS.some((quota) => quota === setting);

const isUsed = (setting: TenantSetting): setting is Exclude<keyof Quotas, 'startsPerSecond'> =>
  isQuota(setting) && setting !== 'startsPerSecond';

function shownIn({ quotas, ...info }: TenantInfo, setting: TenantSetting): string {
  const value = isQuota(setting) ? quotas[setting] : info[setting];
  return value === null ? NONE : ROWS[setting].text(value as never);
}

async function useOf(home: Administration, control: Daemon, name: string): Promise<Use> {
  const { modelBudgets } = await control.host();
  const budget = modelBudgets.find(({ tenant }) => tenant === name);
  return { ...(await home.tenantUse(name)), modelBudget: budget?.used ?? null };
}

function whole(option: string, values: readonly string[]): number | null {
  const value = number(option, values);
  if (value === null || Number.isSafeInteger(value)) return value;
  throw new UsageError(`${option}: invalid number "${words(values)}"`, `use a whole number, or ${NONE}`);
}

function number(option: string, [text = '']: readonly string[]): number | null {
  if (text === NONE) return null;
  if (/^\d{1,15}(\.\d{1,6})?$/.test(text)) return Number(text);
  throw new UsageError(`${option}: invalid number "${text}"`, `use a number of up to 15 digits, or ${NONE}`);
}

/** MiB */
function size(option: string, [text = '']: readonly string[]): number | null {
  return text === NONE ? null : withOption(option, () => parseMemory(text));
}

/** Milliseconds */
function timeout(option: string, [text = '']: readonly string[]): number | null {
  return text === NONE ? null : withOption(option, () => parseDuration(text));
}

const inBytes = (mib: number | null): number | null => (mib === null ? null : mib * MIB);
