/** `neurovisor host`, `pool`, `ps`: the status of the daemon, its pools and the programs of a sandbox. */

import { type Clock, systemClock } from '../../base/clock.ts';
import type { EndedProcess, ProcessInfo } from '../../machine/guest/link.ts';
import type { ControlPlane, HostInfo, PoolInfo, PoolLimits } from '../../sandbox/contract/control.ts';
import { shownImage } from '../../sandbox/contract/environment.ts';
import type { Cli } from '../cli.ts';
import { administer } from '../daemon/administer.ts';
import { UsageError } from '../failure.ts';
import type { ImageFlags } from '../flags/image-flag.ts';
import { budgetWords, parseSharedBudget } from '../flags/model-budget.ts';
import { type PackageFlags, templateAge } from '../flags/package-fields.ts';
import { sandboxId } from '../flags/pick.ts';
import { type RequirementFlags, requirementsOf } from '../flags/requirement-flags.ts';
import { sizeOptions, templateOption } from '../flags/sandbox-fields.ts';
import { sharedBudgetRows } from '../output/sandbox-rows.ts';
import { coarse, table } from '../output/table.ts';
import { PREPARING, templateStep, withTemplateProgress } from '../output/template-progress.ts';
import { pulledImage } from './pull-image.ts';

export async function host(cli: Cli, control: ControlPlane): Promise<number> {
  const info = await control.host();
  if (cli.json) cli.printJson(info);
  else cli.stdout.write(`${hostTable(info, systemClock.wall())}\n`);
  return 0;
}

export interface HostFlags {
  readonly modelBudget?: readonly string[];
}

export async function hostSet(cli: Cli, { modelBudget = [] }: HostFlags): Promise<number> {
  const budget = parseSharedBudget(modelBudget);
  if (budget === undefined) {
    throw new UsageError('no setting is named', 'see neurovisor host set --help');
  }
  const settings = await administer(cli, (home) => home.setSettings({ modelBudget: budget }));
  if (cli.json) cli.printJson(settings);
  else cli.stdout.write(`model budget: ${budgetWords(settings.modelBudget)}\n`);
  return 0;
}

/** @param now milliseconds since 1970 */
export function hostTable(info: HostInfo, now: number): string {
  return table(
    ['daemon', info.version],
    [
      ['uptime', coarse(now - info.startedAtMs)],
      ['VMM', info.vmm],
      ['VMM reason', info.vmmReason],
      ['memory', info.memorySharing],
      ['models', modelsText(info)],
      ['sandboxes', `${info.sandboxes}, ${info.paused} paused`],
      ['queued', `${info.queued} requests`],
      ...(info.cordoned ? [['cordoned', 'new sandboxes are refused; undo with: neurovisor uncordon']] : []),
      ['memory free', `${info.memoryAvailableMib} MiB`],
      ...sharedBudgetRows(info.modelBudgets, now),
    ],
  );
}

function modelsText({ upstream, models }: HostInfo): string {
  return models === null || models.length === 0 ? upstream : `${upstream}: ${models.join(', ')}`;
}

export interface PoolFlags extends RequirementFlags, ImageFlags, Pick<PackageFlags, 'packagesMinAge'> {
  readonly warm: readonly string[];
  readonly template?: string;
  readonly cpus?: string;
  readonly memory?: string;
  readonly memoryMax?: string;
  readonly disk?: string;
  readonly card?: boolean;
}

export async function poolList(cli: Cli, control: ControlPlane): Promise<number> {
  return show(cli, await control.pools());
}

export async function poolSet(
  cli: Cli,
  control: ControlPlane,
  limits: PoolLimits,
  flags: PoolFlags,
  clock: Clock = systemClock,
): Promise<number> {
  const { min, max } = limits;
  checkPool(limits, flags);
  const warm = flags.warm.length === 0 ? {} : { warm: flags.warm };
  const card = flags.card === true ? { card: true } : {};
  const requirements = await requirementsOf(flags);
  const packages = requirements.length === 0 ? {} : { requirements, ...templateAge(flags) };
  const size = { ...sizeOptions(flags), ...warm, ...card, ...packages };
  const members = { ...size, ...(await pulledImage(cli, flags)), ...templateOption(flags) };
  const step = templateStep(members) ?? PREPARING;
  const setting = cli.unlessCancelled(control.setPool({ min, max }, members));
  const info = await withTemplateProgress(cli, clock, step, setting);
  if (cli.json) cli.printJson(info);
  else show(cli, [info]);
  return 0;
}

/** @throws UsageError */
export function checkPool({ min, max }: PoolLimits, flags: PoolFlags): void {
  if (min > max) throw new UsageError(`pool minimum ${min} exceeds maximum ${max}`, 'use MIN MAX, for example 1 4');
  sizeOptions(flags);
  templateOption(flags);
}

function show(cli: Cli, list: readonly PoolInfo[]): number {
  if (cli.json) cli.printJson(list);
  else cli.stdout.write(`${poolTable(list)}\n`);
  return 0;
}

/** Shown characters of a template key, enough to tell templates apart. */
const KEY_SHOWN = 12;

export function poolTable(list: readonly PoolInfo[]): string {
  const heads = ['template', 'cpus', 'memory', 'min', 'max', 'target', 'ready', 'starting'];
  const rows = list.map((one) => [
    one.name ?? one.template.slice(0, KEY_SHOWN),
    `${one.spec.cpus}`,
    `${one.spec.memoryMib} MiB`,
    ...[one.min, one.max, one.target, one.ready, one.starting].map(String),
    ...[one.hits, one.misses, one.discarded].map(String),
    shownImage(one.spec.environment?.image ?? '-'),
    one.spec.warm.join(' '),
  ]);
  return table([...heads, 'hits', 'misses', 'discarded', 'image', 'warm'], rows);
}

export async function processes(cli: Cli, control: ControlPlane, text: string, all = false): Promise<number> {
  const guest = await control.guest(await sandboxId(control, text));
  const list = [...(await guest.processes()), ...(all ? await guest.endedProcesses() : [])];
  if (cli.json) cli.printJson(list);
  else cli.stdout.write(`${processTable(list)}\n`);
  return 0;
}

export function processTable(list: readonly (ProcessInfo | EndedProcess)[]): string {
  const rows = list.map((one) => [
    `${one.pid}`,
    one.user,
    coarse(one.ageMs),
    [one.detached ? 'detached' : '', one.pty ? 'terminal' : '', endText(one)].filter(Boolean).join(' ') || '-',
    one.cwd,
    one.kind === 'python' ? ['python3', ...one.argv].join(' ') : one.argv.join(' '),
  ]);
  return table(['pid', 'user', 'age', 'mode', 'directory', 'program'], rows);
}

function endText(one: ProcessInfo | EndedProcess): string {
  return 'exit' in one ? `ended (${one.exit.exitCode ?? one.exit.signal ?? 'unknown'})` : '';
}
