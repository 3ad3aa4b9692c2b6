/** Disk usage of a home, and the removal of what can be made again. */
import type { HomeDisk, HomeImages } from '../../sandbox/contract/contents.ts';
import type { ListedTemplate } from '../../sandbox/contract/schema/contents.ts';
import { clearCaches } from '../disk/clear-caches.ts';
import { type DiskKind, diskUsage, type KindBytes } from '../disk/usage.ts';
import { removeTemplate } from '../runtime/kept-templates.ts';
import { listTemplates } from '../runtime/named-templates/listing.ts';
import { TemplateNames } from '../runtime/named-templates/names.ts';
import type { ContentsWorld } from './world.ts';

/** Caches that the next use makes or fetches again. */
const CACHES: ReadonlySet<DiskKind> = new Set(['Dockerfile steps', 'packages']);

export function homeDisk(world: ContentsWorld, images: HomeImages): HomeDisk {
  const { home } = world;

  /** Templates that starts have made without a name: the next start of their kind makes them again. */
  const unnamedTemplates = async (): Promise<readonly (ListedTemplate & { readonly key: string })[]> => {
    const list = await listTemplates(home.cacheDir, new TemplateNames(home.dir));
    return list.flatMap((one) => (one.names.length === 0 && one.key !== null ? [{ ...one, key: one.key }] : []));
  };

  return {
    async usage() {
      const unnamedImages = (await images.list()).filter(({ names }) => names.length === 0);
      const reclaimable = new Map<DiskKind, number>([
        ['templates', sum((await unnamedTemplates()).flatMap(({ files }) => Object.values(files)))],
        ['images', sum(unnamedImages.flatMap(({ layers }) => layers.map(({ bytes }) => bytes)))],
      ]);
      const usage = (await diskUsage(home)).map(({ kind, bytes }) => ({
        kind,
        bytes,
        reclaimableBytes: CACHES.has(kind) ? bytes : (reclaimable.get(kind) ?? 0),
      }));
      return { home: home.dir, usage, totalBytes: total(usage) };
    },

    async prune(all) {
      const before = total(await diskUsage(home));
      const templates: string[] = [];
      for (const { key } of await unnamedTemplates()) {
        if (await removeTemplate(world.context(), key)) templates.push(key);
      }
      const removed = await images.prune(false);
      if (all) await clearCaches(home);
      const freedBytes = Math.max(0, before - total(await diskUsage(home)));
      return { templates, images: removed.images, freedBytes };
    },
  };
}

const sum = (numbers: readonly number[]): number => numbers.reduce((subtotal, one) => subtotal + one, 0);

const total = (usage: readonly KindBytes[]): number => sum(usage.map(({ bytes }) => bytes));
