/** `neurovisor tenant`: the quotas of tenants. */
import { isValidKey } from '../../../api/tenants/keys.ts';
import { type Quotas, type TenantChange, type TenantInfo, unset } from '../../../api/tenants/settings.ts';
import { usageOf } from '../../../api/tenants/usage.ts';
import { systemClock } from '../../../base/clock.ts';
import { type BudgetUse, budgetStates, type WindowedBudget } from '../../../base/request/model-limits.ts';
import { MIB } from '../../../base/units.ts';
import type { Cli } from '../../cli.ts';
import { administer } from '../../daemon/administer.ts';
import { UsageError } from '../../failure.ts';
import { budgetWords, parseSharedBudget } from '../../flags/model-budget.ts';
import { parseMemory } from '../../flags/options.ts';
import { withOption } from '../../flags/ranges.ts';
import type { Daemon } from '../../library/daemon.ts';
import { bytes, table } from '../../output/table.ts';

export interface QuotaFlags {
  readonly sandboxes?: string;
  readonly memory?: string;
  readonly starts?: string;
  readonly storage?: string;
  readonly modelBudget?: readonly string[];
  readonly allowHosted?: readonly string[];
  readonly allowNet?: readonly string[];
  readonly allowField?: readonly string[];
}

type Use = { readonly [K in keyof Quotas]?: number } & {
  /** Null: nothing was used in this window, or there is none. */
  readonly modelBudget: BudgetUse | null;
};

/** Those with a key or with settings. */
export async function tenantList(cli: Cli): Promise<number> {
  const [keys, tenants] = await administer(cli, async (home) => [await home.keys(), await home.tenants()] as const);
  const known = new Map(tenants.map((one) => [one.name, one]));
  const names = [...new Set([...known.keys(), ...keys.map(({ tenant }) => tenant)])].sort();
  const list = names.map((name) => ({
    ...(known.get(name) ?? unset(name)),
    keys: keys.filter((key) => key.tenant === name && isValidKey(key, systemClock.wall())).length,
  }));
  if (cli.json) cli.printJson(list);
  else cli.stdout.write(`${tenantTable(list)}\n`);
  return 0;
}

export function tenantTable(list: readonly (TenantInfo & { readonly keys: number })[]): string {
  const rows = list.map(({ name, keys, quotas, allowHosted, modelBudget }) => [
    name,
    `${keys}`,
    ...ROWS.map(({ key, text }) => shown(quotas[key], text)),
    words(allowHosted),
    budgetWords(modelBudget),
  ]);
  return table(['tenant', 'keys', ...ROWS.map(({ title }) => title), HOSTED, BUDGET], rows);
}

export async function tenantShow(cli: Cli, name: string): Promise<number> {
  const { info, use } = await administer(cli, async (home, daemon) => ({
    info: await home.tenant(name),
    use: daemon === null ? null : await useOf(daemon, name),
  }));
  if (cli.json) cli.printJson({ ...info, use });
  else cli.stdout.write(`${quotaTable(info, use)}\n`);
  return 0;
}

export async function tenantSet(cli: Cli, name: string, flags: QuotaFlags): Promise<number> {
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
  const removed = await administer(cli, (home) => home.removeTenant(name));
  const { revokedKeys, erasedSaves } = removed;
  if (cli.json) cli.printJson(removed);
  else {
    const keys = `${revokedKeys} ${revokedKeys === 1 ? 'key' : 'keys'} revoked`;
    cli.stdout.write(`${name}: ${keys}${erasedSaves ? ', encrypted saves unreadable' : ''}\n`);
  }
  return 0;
}

/** @throws UsageError */
export function changeOf(flags: QuotaFlags): TenantChange {
  const { sandboxes, memory, starts, storage, allowHosted, allowNet, allowField } = flags;
  const modelBudget = parseSharedBudget(flags.modelBudget ?? []);
  return {
    ...(sandboxes !== undefined && { sandboxes: whole('--sandboxes', sandboxes) }),
    ...(memory !== undefined && { memoryMib: size('--memory', memory) }),
    ...(starts !== undefined && { startsPerSecond: number('--starts', starts) }),
    ...(storage !== undefined && { storageBytes: inBytes(size('--storage', storage)) }),
    ...(allowHosted !== undefined && { allowHosted: listOf('--allow-hosted', allowHosted) }),
    ...(allowNet !== undefined && { allowNet: listOf('--allow-net', allowNet) }),
    ...(allowField !== undefined && { allowFields: listOf('--allow-field', allowField) }),
    ...(modelBudget !== undefined && { modelBudget }),
  };
}

/** @param use null: no daemon runs */
function quotaTable({ quotas, modelBudget, ...ceiling }: TenantInfo, use: Use | null): string {
  const rows = ROWS.map(({ key, title, text }) => {
    const used = use?.[key];
    return [title, shown(quotas[key], text), used === undefined ? '-' : text(used)];
  });
  const used = use?.modelBudget ?? null;
  return table(
    ['quota', 'limit', 'used'],
    [
      ...rows,
      [BUDGET, budgetWords(modelBudget), budgetUseText(modelBudget, used)],
      [HOSTED, words(ceiling.allowHosted), '-'],
      ['model fields', words(ceiling.allowFields), '-'],
      ['private networks', words(ceiling.allowNet), '-'],
    ],
  );
}

function budgetUseText(budget: WindowedBudget | null, used: BudgetUse | null): string {
  if (budget === null || used === null) return '-';
  const states = budgetStates(budget, used, systemClock.wall());
  return budgetWords(Object.fromEntries(states.map((state) => [state.kind, state.used])));
}

const HOSTED = 'hosted models';
const BUDGET = 'model budget';
const words = (list: readonly string[]): string => list.join(', ') || NONE;

/** @throws UsageError */
function listOf(option: string, values: readonly string[]): readonly string[] {
  if (!values.includes(NONE)) return values;
  if (values.length === 1) return [];
  throw new UsageError(`${option}: ${NONE} and other values`, `use values, or ${NONE} alone`);
}

const count = (value: number): string => `${value}`;

const ROWS: readonly {
  readonly key: keyof Quotas;
  readonly title: string;
  readonly text: (value: number) => string;
}[] = [
  { key: 'sandboxes', title: 'sandboxes', text: count },
  { key: 'memoryMib', title: 'memory', text: (mib) => bytes(mib * MIB) },
  { key: 'startsPerSecond', title: 'starts/s', text: count },
  { key: 'storageBytes', title: 'storage', text: bytes },
];

const shown = (limit: number | null, text: (value: number) => string): string =>
  limit === null ? 'none' : text(limit);

async function useOf(control: Daemon, name: string): Promise<Use> {
  const { modelBudgets } = await control.host();
  const budget = modelBudgets.find(({ tenant }) => tenant === name);
  const usage = usageOf(name, await control.list(), await control.snapshots());
  return { ...usage, modelBudget: budget?.used ?? null };
}

const NONE = 'none';

function whole(option: string, text: string): number | null {
  const value = number(option, text);
  if (value === null || Number.isSafeInteger(value)) return value;
  throw new UsageError(`${option}: invalid number "${text}"`, `use a whole number, or ${NONE}`);
}

function number(option: string, text: string): number | null {
  if (text === NONE) return null;
  if (/^\d{1,15}(\.\d{1,6})?$/.test(text)) return Number(text);
  throw new UsageError(`${option}: invalid number "${text}"`, `use a number of up to 15 digits, or ${NONE}`);
}

/** MiB */
function size(option: string, text: string): number | null {
  return text === NONE ? null : withOption(option, () => parseMemory(text));
}

const inBytes = (mib: number | null): number | null => (mib === null ? null : mib * MIB);
