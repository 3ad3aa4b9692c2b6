/** `neurovisor df` and `neurovisor prune`: the disk usage of the home, and the removal of what can be made again. */
import { type Home, resolveHome } from '../../base/home.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import { clearCaches } from '../../host/disk/clear-caches.ts';
import { type DiskKind, type DiskUsage, diskUsage } from '../../host/disk/usage.ts';
import { removeTemplate } from '../../host/runtime/kept-templates.ts';
import { listTemplates } from '../../host/runtime/named-templates/listing.ts';
import { TemplateNames } from '../../host/runtime/named-templates/names.ts';
import type { ListedTemplate } from '../../sandbox/contract/contents.ts';
import type { Cli } from '../cli.ts';
import { bytes, table } from '../output/table.ts';
import { openImagesHere } from './image.ts';

/** Caches that the next use makes or fetches again. */
const CACHES: ReadonlySet<DiskKind> = new Set(['Dockerfile steps', 'packages']);

export async function df(cli: Cli): Promise<number> {
  const home = resolveHome(cli.config.home);
  await using opened = openImagesHere(cli);
  const unnamedImages = (await opened.images.list()).filter(({ names }) => names.length === 0);
  const reclaimable = new Map<DiskKind, number>([
    ['templates', (await unnamedTemplates(home)).reduce((sum, one) => sum + sizeOf(one), 0)],
    ['images', unnamedImages.flatMap(({ layers }) => layers).reduce((sum, layer) => sum + layer.bytes, 0)],
  ]);
  const usage = (await diskUsage(home)).map((one) => ({
    ...one,
    reclaimableBytes: CACHES.has(one.kind) ? one.bytes : (reclaimable.get(one.kind) ?? 0),
  }));
  cli.progress.close();
  const totalBytes = total(usage);
  if (cli.json) {
    cli.printJson({ home: home.dir, usage, totalBytes });
    return 0;
  }
  const rows = usage.map((one) => [one.kind, bytes(one.bytes), bytes(one.reclaimableBytes)]);
  cli.stdout.write(`${table(['kind', 'size', 'reclaimable'], rows)}\n`);
  cli.stdout.write(`${bytes(totalBytes)} in ${home.dir}; free what is reclaimable with: neurovisor prune --all\n`);
  return 0;
}

export interface PruneFlags {
  readonly all?: boolean;
}

/** Named templates and images, sandboxes, snapshots and models stay. */
export async function prune(cli: Cli, flags: PruneFlags): Promise<number> {
  const home = resolveHome(cli.config.home);
  const before = total(await diskUsage(home));
  const context = { cacheDir: home.cacheDir, sourceDir: PACKAGE_DIR, progress: cli.progress.report };
  const templates = await unnamedTemplates(home);
  for (const { key } of templates) {
    if (key !== null) await removeTemplate({ ...context, signal: cli.cancelled, log: cli.log }, key);
  }
  await using opened = openImagesHere(cli);
  const { images } = await opened.images.prune(false, cli.cancelled);
  if (flags.all === true) await clearCaches(home);
  cli.progress.close();
  const freedBytes = Math.max(0, before - total(await diskUsage(home)));
  const keys = templates.flatMap(({ key }) => (key === null ? [] : [key]));
  if (cli.json) cli.printJson({ templates: keys, images, freedBytes });
  else {
    for (const name of [...keys, ...images]) cli.stdout.write(`${name}\n`);
    cli.stdout.write(`freed ${bytes(freedBytes)}\n`);
  }
  return 0;
}

/** Templates that starts have made without a name: the next start of their kind makes them again. */
async function unnamedTemplates({ dir, cacheDir }: Home): Promise<readonly ListedTemplate[]> {
  const list = await listTemplates(cacheDir, new TemplateNames(dir));
  return list.filter(({ names, key }) => names.length === 0 && key !== null);
}

const sizeOf = ({ files }: ListedTemplate): number => Object.values(files).reduce((sum, one) => sum + one, 0);

const total = (usage: readonly DiskUsage[]): number => usage.reduce((sum, { bytes: size }) => sum + size, 0);
