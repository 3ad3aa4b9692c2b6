/** `neurovisor template`: builds, lists and removes templates. */
import { MIB } from '../../base/units.ts';
import { resolveHome } from '../../home.ts';
import {
  isSetUp,
  keptTemplates,
  removeTemplate,
  type TemplateInfo,
} from '../../runtime/kept-templates.ts';
import type { Runtime } from '../../runtime/runtime.ts';
import { SOURCE_DIR } from '../../runtime/setup.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { type RequirementFlags, requirementsOf } from '../flags/requirement-flags.ts';
import { sizeOptions } from '../flags/sandbox-flags.ts';
import { duration, table } from '../output/table.ts';
import { openRuntime } from './open-runtime.ts';

export interface TemplateFlags extends RequirementFlags {
  readonly warm: readonly string[];
  readonly cpus?: number;
  readonly memory?: string;
  readonly memoryMax?: string;
  readonly disk?: string;
  readonly card?: boolean;
}

/** Shown characters of a key, enough to name a template. */
const KEY_SHOWN = 12;

export async function templateBuild(cli: Cli, flags: TemplateFlags): Promise<number> {
  const requirements = await requirementsOf(flags);
  const options = { ...sizeOptions(flags), warm: flags.warm, requirements };
  await using runtime = await open(cli);
  const { key } = await runtime.prepareTemplate({ ...options, card: flags.card === true });
  cli.progress.close();
  return show(cli, find(await runtime.templates.list(), key));
}

export async function templateList(cli: Cli): Promise<number> {
  const list = await kept(cli);
  if (cli.json) {
    cli.printJson(list);
    return 0;
  }
  const rows = list.map((one) => [
    one.key.slice(0, KEY_SHOWN),
    `${one.spec.cpus}`,
    `${one.spec.memoryMib} MiB`,
    `${one.spec.diskMib} MiB`,
    mebibytes(one),
    one.current ? 'yes' : 'no',
    one.spec.card === true ? 'yes' : 'no',
    namesOf(one),
    one.spec.warm.join(' '),
  ]);
  const head = ['key', 'cpus', 'memory', 'disk', 'size', 'current', 'card', 'packages', 'warm'];
  cli.stdout.write(`${table(head, rows)}\n`);
  return 0;
}

export async function templateInspect(cli: Cli, key: string): Promise<number> {
  return show(cli, find(await kept(cli), key));
}

export async function templateRemove(cli: Cli, keys: readonly string[]): Promise<number> {
  const list = await keptTemplates(contextOf(cli).cacheDir);
  const found = keys.map((key) => find(list, key));
  for (const { key } of found) await removeTemplate(contextOf(cli), key);
  cli.progress.close();
  if (cli.json) cli.printJson(found.map(({ key }) => key));
  return 0;
}

/** Does not set up the machine: without set-up, no template is current. */
async function kept(cli: Cli): Promise<readonly TemplateInfo[]> {
  const context = contextOf(cli);
  const list = await keptTemplates(context.cacheDir);
  if (list.length === 0 || !(await isSetUp(context))) return list;
  await using runtime = await open(cli, { withoutModel: true });
  const judged = await runtime.templates.list();
  cli.progress.close();
  return judged;
}

function contextOf({ config, progress, cancelled, log }: Cli) {
  const { cacheDir } = resolveHome(config.home);
  return { cacheDir, sourceDir: SOURCE_DIR, progress: progress.report, signal: cancelled, log };
}

function open(cli: Cli, options: { readonly withoutModel?: boolean } = {}): Promise<Runtime> {
  return openRuntime(cli, { keepsProgress: true, ...options });
}

/** @throws UsageError unless the text is a prefix of exactly one key */
function find(list: readonly TemplateInfo[], text: string): TemplateInfo {
  const matching = list.filter(({ key }) => key.startsWith(text));
  const [one] = matching;
  if (one !== undefined && matching.length === 1) return one;
  const what = one === undefined ? 'unknown template' : 'ambiguous template key';
  throw new UsageError(`${what} "${text}"`, 'list them with: neurovisor template ls');
}

function show(cli: Cli, info: TemplateInfo): number {
  if (cli.json) {
    cli.printJson(info);
    return 0;
  }
  const modules = info.modules.map((one) => `${one.name} ${duration(one.durationMs)}`);
  const rows = [
    ['key', info.key],
    ['current', info.current ? 'yes' : 'no: made for another kernel, image, VMM or processor'],
    ['created', new Date(info.madeAtMs).toISOString()],
    ['cpus', `${info.spec.cpus}`],
    ['memory', `${info.spec.memoryMib} MiB`],
    ['disk', `${info.spec.diskMib} MiB`],
    ['card', info.spec.card === true ? 'yes' : 'no'],
    ['size', mebibytes(info)],
    ['packages', (info.spec.requirements ?? []).join(', ')],
    ['warm', modules.join(', ')],
    ['machine', info.machine],
    ['kernel', info.kernelDigest],
    ['image', info.rootImageDigest],
  ];
  cli.stdout.write(`${table(['part', 'value'], rows)}\n`);
  return 0;
}

/** Of the packages that were asked for; the first few. */
function namesOf({ spec: { requirements = [] } }: TemplateInfo): string {
  const shown = requirements.slice(0, NAMES_SHOWN).join(' ');
  return requirements.length > NAMES_SHOWN ? `${shown} …` : shown;
}

const NAMES_SHOWN = 3;

/** Size on disk. */
function mebibytes(info: TemplateInfo): string {
  const bytes = Object.values(info.files).reduce((sum, one) => sum + one, 0);
  return `${Math.round(bytes / MIB)} MiB`;
}
