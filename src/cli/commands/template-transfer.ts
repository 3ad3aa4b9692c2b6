/** `neurovisor template export|import|push|pull`: moves named templates between hosts. */
import { resolve } from 'node:path';
import { resolveHome } from '../../base/home.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import { writeTemplate } from '../../host/runtime/named-templates/layout.ts';
import { TemplateNames } from '../../host/runtime/named-templates/names.ts';
import { pushTemplate } from '../../host/runtime/named-templates/transfer.ts';
import type { ImportedTemplate } from '../../sandbox/contract/schema/contents.ts';
import type { Cli } from '../cli.ts';
import { table } from '../output/table.ts';
import { openContents } from './contents.ts';

export async function templateExport(cli: Cli, name: string, dir: string): Promise<number> {
  const { names, context } = open(cli);
  const template = await names.get(name);
  await writeTemplate(template, dir, context.signal);
  if (cli.json) cli.printJson({ name, dir });
  return 0;
}

/** @param name another name than that of the export */
export async function templateImport(cli: Cli, dir: string, name?: string): Promise<number> {
  await using contents = await openContents(cli);
  const imported = await contents.templates.import(resolve(dir), name, contents.work);
  cli.progress.close();
  return show(cli, imported);
}

export async function templatePush(cli: Cli, name: string, reference: string): Promise<number> {
  const { names, context } = open(cli);
  const pushed = await pushTemplate(context, await names.get(name), reference);
  cli.progress.close();
  if (cli.json) cli.printJson({ name, reference: pushed });
  return 0;
}

export async function templatePull(cli: Cli, reference: string, name?: string): Promise<number> {
  await using contents = await openContents(cli);
  const imported = await contents.templates.pull(reference, name, contents.work);
  cli.progress.close();
  return show(cli, imported);
}

function open({ config, progress, cancelled, log }: Cli) {
  const { dir, cacheDir } = resolveHome(config.home);
  const context = { cacheDir, sourceDir: PACKAGE_DIR, progress: progress.report, signal: cancelled, log };
  return { names: new TemplateNames(dir), context };
}

/** What runs in its sandboxes, too: it is somebody else's. */
function show(cli: Cli, { name, spec }: ImportedTemplate): number {
  if (cli.json) {
    cli.printJson({ name, spec });
    return 0;
  }
  const rows = [
    ['name', name],
    ['cpus', `${spec.cpus}`],
    ['memory', `${spec.memoryMib} MiB`],
    ['disk', `${spec.diskMib} MiB`],
    ['image', spec.environment?.image ?? '-'],
    ['packages', (spec.requirements ?? []).join(', ') || '-'],
    ['start', spec.start?.command ?? '-'],
    ['ready', spec.start?.ready ?? '-'],
  ];
  cli.stdout.write(`${table(['part', 'value'], rows)}\n`);
  return 0;
}
