/** `neurovisor template`: builds, names, lists and removes templates. */

import { READY_MADE } from '../../artifacts/ready-made.ts';
import { MIB } from '../../base/units.ts';
import { findTemplate } from '../../host/contents/templates.ts';
import { checkNewName } from '../../host/runtime/named-templates/names.ts';
import { shownImage } from '../../sandbox/contract/environment.ts';
import type { ListedTemplate } from '../../sandbox/contract/schema/contents.ts';
import type { StartCommand } from '../../sandbox/contract/schema/request.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { type ImageFlags, readReference } from '../flags/image-flag.ts';
import { type PackageFlags, templateAge } from '../flags/package-fields.ts';
import { type RequirementFlags, requirementsOf } from '../flags/requirement-flags.ts';
import { sizeOptions } from '../flags/sandbox-fields.ts';
import { type AskedStart, readStart, type StartFlags, withHealthcheck } from '../flags/start-command.ts';
import type { OpenedContents } from '../library/contents.ts';
import { duration, table } from '../output/table.ts';
import { openContents } from './contents.ts';

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
  if (name !== undefined && READY_MADE.has(name)) {
    checkReadyMade(name, flags);
    return await build(cli, (contents) =>
      contents.templates.create({ name, card: flags.card === true }, contents.work),
    );
  }
  if (name !== undefined) checkNewName(name);
  const asked = readStart(flags, flags.image !== undefined);
  const requirements = await requirementsOf(flags);
  const image = flags.image === undefined ? undefined : (await readReference(flags.image)).text;
  const size = { ...sizeOptions(flags), warm: flags.warm, requirements, ...templateAge(flags) };
  return await build(cli, async (contents) => {
    const start = await completeStart(contents, asked, image);
    return await contents.templates.create({ ...size, card: flags.card === true, image, name, start }, contents.work);
  });
}

async function build(cli: Cli, work: (contents: OpenedContents) => Promise<ListedTemplate>): Promise<number> {
  await using contents = await openContents(cli);
  const made = await work(contents);
  cli.progress.close();
  return show(cli, made);
}

/** @throws UsageError */
function checkReadyMade(name: string, flags: TemplateFlags): void {
  const { warm, with: packages, requirements, cpus, memory, memoryMax, disk } = flags;
  const { image, start, ready, readyTimeout, packagesMinAge } = flags;
  const lists = [warm, packages, requirements].filter((list) => list !== undefined && list !== false);
  const others = [cpus, memory, memoryMax, disk, image, start, ready, readyTimeout, packagesMinAge];
  if (lists.flat().length === 0 && others.every((value) => value === undefined)) return;
  throw new UsageError(
    `${name} is a ready-made environment: it takes no other options`,
    `build your own with another name, for example from a Dockerfile that begins with FROM ${name}`,
  );
}

/** Pulls the image, so that its progress shows, and for its health check. @throws UsageError */
async function completeStart(
  { images, work }: OpenedContents,
  asked: AskedStart | undefined,
  image: string | undefined,
): Promise<StartCommand | undefined> {
  const pulled = image === undefined ? undefined : await images.pull(image, 'missing', work);
  if (asked === undefined) return undefined;
  return withHealthcheck(asked, pulled?.image.config ?? { healthcheck: null }, `the image ${image}`);
}

export async function templateList(cli: Cli): Promise<number> {
  await using contents = await openContents(cli);
  const list = await contents.templates.list();
  cli.progress.close();
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
  await using contents = await openContents(cli);
  const list = await contents.templates.list();
  cli.progress.close();
  return show(cli, findTemplate(list, text));
}

/** JSON: the removed names and keys. */
export async function templateRemove(cli: Cli, texts: readonly string[]): Promise<number> {
  await using contents = await openContents(cli);
  const removed = await contents.templates.remove(texts);
  cli.progress.close();
  if (cli.json) cli.printJson(removed);
  return 0;
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
