/** `neurovisor template`: builds, names, lists and removes templates. */

import { READY_MADE } from '../../artifacts/ready-made.ts';
import { resolveHome } from '../../base/home.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import { nearNames } from '../../base/text/near-names.ts';
import { MIB } from '../../base/units.ts';
import { isSetUp, keptTemplates, removeTemplate } from '../../host/runtime/kept-templates.ts';
import { type ListedTemplate, listTemplates, removeNamed } from '../../host/runtime/named-templates/listing.ts';
import { checkNewName, checkRemovable, TemplateNames } from '../../host/runtime/named-templates/names.ts';
import type { Runtime } from '../../host/runtime/runtime.ts';
import { shownImage } from '../../sandbox/contract/environment.ts';
import type { StartCommand } from '../../sandbox/contract/spec.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { type ImageFlags, imageRequest, readReference } from '../flags/image-flag.ts';
import { type PackageFlags, templateAge } from '../flags/package-fields.ts';
import { type RequirementFlags, requirementsOf } from '../flags/requirement-flags.ts';
import { sizeOptions } from '../flags/sandbox-fields.ts';
import { type AskedStart, readStart, type StartFlags, withHealthcheck } from '../flags/start-command.ts';
import { duration, table } from '../output/table.ts';
import { openImagesHere } from './image.ts';
import { openRuntime } from './open-runtime.ts';

export interface TemplateFlags extends RequirementFlags, ImageFlags, StartFlags, Pick<PackageFlags, 'packagesMinAge'> {
  readonly warm: readonly string[];
  readonly cpus?: string;
  readonly memory?: string;
  readonly memoryMax?: string;
  readonly disk?: string;
  readonly card?: boolean;
}

/** Shown characters of a key, enough to name a template. */
const KEY_SHOWN = 12;

export async function templateCreate(cli: Cli, flags: TemplateFlags): Promise<number> {
  const { name } = flags;
  if (name !== undefined && READY_MADE.has(name)) return await buildReadyMadeTemplate(cli, name, flags);
  if (name !== undefined) checkNewName(name);
  const asked = readStart(flags, flags.image !== undefined);
  const requirements = await requirementsOf(flags);
  const image = await imageRequest(flags);
  const options = { ...sizeOptions(flags), warm: flags.warm, requirements, ...templateAge(flags), ...image };
  const start = await completeStart(cli, asked, flags);
  await using runtime = await open(cli);
  const members = { ...options, card: flags.card === true };
  const template = await runtime.templateSource.prepareTemplate(members, start);
  if (name !== undefined) await runtime.templates.setName(name, template);
  cli.progress.close();
  return show(cli, find(await runtime.templates.list(), template.key));
}

/** Before it is first used. */
async function buildReadyMadeTemplate(cli: Cli, name: string, flags: TemplateFlags): Promise<number> {
  const { card, warm, with: packages, requirements, cpus, memory, memoryMax, disk } = flags;
  const { image, start, ready, readyTimeout, packagesMinAge } = flags;
  const lists = [warm, packages, requirements].filter((list) => list !== undefined && list !== false);
  const others = [cpus, memory, memoryMax, disk, image, start, ready, readyTimeout, packagesMinAge];
  if (lists.flat().length > 0 || others.some((value) => value !== undefined)) {
    throw new UsageError(
      `${name} is a ready-made environment: it takes no other options`,
      `build your own with another name, for example from a Dockerfile that begins with FROM ${name}`,
    );
  }
  await using runtime = await open(cli);
  const { key } = await runtime.templateSource.prepareTemplate({ template: name, card: card === true });
  cli.progress.close();
  return show(cli, find(await runtime.templates.list(), key));
}

/** Pulls the image if its health check is needed. @throws UsageError */
async function completeStart(
  cli: Cli,
  asked: AskedStart | undefined,
  { image }: ImageFlags,
): Promise<StartCommand | undefined> {
  if (asked === undefined) return undefined;
  const { ready } = asked;
  if (ready !== null || image === undefined) {
    return withHealthcheck(asked, { healthcheck: null }, 'the image');
  }
  await using opened = openImagesHere(cli);
  const reference = await readReference(image);
  const pulled = await opened.images.pull(reference, 'missing', cli.cancelled);
  return withHealthcheck(asked, pulled.image.config, `the image ${reference.text}`);
}

export async function templateList(cli: Cli): Promise<number> {
  const list = await listed(cli);
  if (cli.json) {
    cli.printJson(list);
    return 0;
  }
  const rows = list.map((one) => [
    one.names.join(' ') || '-',
    one.key?.slice(0, KEY_SHOWN) ?? '-',
    `${one.spec.cpus}`,
    `${one.spec.memoryMib} MiB`,
    `${one.spec.diskMib} MiB`,
    one.key === null ? 'not built' : mebibytes(one),
    one.current ? 'yes' : 'no',
    one.spec.card === true ? 'yes' : 'no',
    shownImage(one.spec.environment?.image ?? '-'),
    packagesOf(one),
    one.spec.warm.join(' '),
  ]);
  const head = ['name', 'key', 'cpus', 'memory', 'disk', 'size'];
  const more = ['current', 'card', 'image', 'packages', 'warm'];
  cli.stdout.write(`${table([...head, ...more], rows)}\n`);
  return 0;
}

export async function templateInspect(cli: Cli, text: string): Promise<number> {
  return show(cli, find(await listed(cli), text));
}

/** All are found before the first is removed. JSON: the removed names and keys. */
export async function templateRemove(cli: Cli, texts: readonly string[]): Promise<number> {
  const context = contextOf(cli);
  const names = namesOf(cli);
  const list = await listTemplates(context.cacheDir, names);
  const found: { readonly name?: string; readonly key?: string }[] = [];
  for (const text of texts) {
    if (!(await names.has(text))) found.push({ key: find(list, text).key ?? '' });
    else {
      checkRemovable(text);
      found.push({ name: text });
    }
  }
  const removed: string[] = [];
  for (const { name, key } of found) {
    if (name !== undefined) removed.push(name, ...(await removeNamed(context, names, name)));
    else if (key !== undefined && (await removeTemplate(context, key))) removed.push(key);
  }
  cli.progress.close();
  if (cli.json) cli.printJson(removed);
  return 0;
}

/** Does not set up the machine: without set-up, no template is current. */
async function listed(cli: Cli): Promise<readonly ListedTemplate[]> {
  const context = contextOf(cli);
  const isEmpty = (await keptTemplates(context.cacheDir)).length === 0;
  if (isEmpty || !(await isSetUp(context))) {
    return await listTemplates(context.cacheDir, namesOf(cli));
  }
  await using runtime = await open(cli, { withoutModel: true });
  const judged = await runtime.templates.list();
  cli.progress.close();
  return judged;
}

function namesOf({ config }: Cli): TemplateNames {
  return new TemplateNames(resolveHome(config.home).dir);
}

function contextOf({ config, progress, cancelled, log }: Cli) {
  const { cacheDir } = resolveHome(config.home);
  return { cacheDir, sourceDir: PACKAGE_DIR, progress: progress.report, signal: cancelled, log };
}

function open(cli: Cli, options: { readonly withoutModel?: boolean } = {}): Promise<Runtime> {
  return openRuntime(cli, { keepsProgress: true, ...options });
}

/** @throws UsageError unless the text is a name, or a prefix of exactly one key */
function find(list: readonly ListedTemplate[], text: string): ListedTemplate {
  const named = list.filter(({ names }) => names.includes(text));
  const best =
    named.find(({ current, spec }) => current && spec.card !== true) ??
    named.find(({ current }) => current) ??
    named[0];
  if (best !== undefined) return best;
  const matching = text === '' ? [] : list.filter(({ key }) => key?.startsWith(text) === true);
  const [one] = matching;
  if (one !== undefined && matching.length === 1) return one;
  const what = one === undefined ? 'unknown template' : 'ambiguous template key';
  const near = nearNames(
    text,
    list.flatMap(({ names }) => names),
  );
  const guess = one === undefined && near.length > 0 ? `did you mean ${near.join(' or ')}? ` : '';
  throw new UsageError(`${what} "${text}"`, `${guess}list templates with: neurovisor template ls`);
}

function show(cli: Cli, info: ListedTemplate): number {
  if (cli.json) {
    cli.printJson(info);
    return 0;
  }
  const modules = info.modules.map((one) => `${one.name} ${duration(one.durationMs)}`);
  const rows = [
    ...(info.names.length === 0 ? [] : [['name', info.names.join(', ')]]),
    ['key', info.key ?? '-'],
    ['current', info.current ? 'yes' : WHY_NOT_CURRENT[info.key === null ? 'missing' : 'other']],
    ['created', info.madeAtMs === null ? '-' : new Date(info.madeAtMs).toISOString()],
    ['cpus', `${info.spec.cpus}`],
    ['memory', `${info.spec.memoryMib} MiB`],
    ['disk', `${info.spec.diskMib} MiB`],
    ['card', info.spec.card === true ? 'yes' : 'no'],
    ['size', mebibytes(info)],
    ...(info.spec.start === undefined
      ? []
      : [
          ['start', info.spec.start.command],
          ['ready', info.spec.start.ready],
        ]),
    ...imageRows(info),
    ['packages', (info.spec.requirements ?? []).join(', ')],
    ['warm', modules.join(', ')],
    ['machine', info.machine ?? '-'],
    ['kernel', info.kernelDigest ?? '-'],
    ['system image', info.rootImageDigest ?? '-'],
  ];
  cli.stdout.write(`${table(['part', 'value'], rows)}\n`);
  return 0;
}

function imageRows({ spec: { environment } }: ListedTemplate): string[][] {
  if (environment === undefined) return [];
  return [
    ['image', environment.image],
    ['digest', environment.imageDigest],
  ];
}

const WHY_NOT_CURRENT = {
  missing: 'no: not built yet; its first use builds it',
  other: 'no: made for another kernel, image, VMM or processor',
};

/** Of the packages that were asked for; the first few. */
function packagesOf({ spec: { requirements = [] } }: ListedTemplate): string {
  const shown = requirements.slice(0, NAMES_SHOWN).join(' ');
  return requirements.length > NAMES_SHOWN ? `${shown} …` : shown;
}

const NAMES_SHOWN = 3;

/** Size on disk. */
function mebibytes(info: ListedTemplate): string {
  const bytes = Object.values(info.files).reduce((sum, one) => sum + one, 0);
  return `${Math.round(bytes / MIB)} MiB`;
}
