/** Lists and removes the templates of a cache; needs nothing that builds one or starts a VM. */
import { readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { missingHostPackages, RUN_PACKAGES } from '../../artifacts/image/host-packages.ts';
import { type LockContext, withArtifactLock, withFileLock } from '../../artifacts/image/lock.ts';
import { MANIFEST, type PrepareContext } from '../../artifacts/image/prepare.ts';
import { isPrepared } from '../../artifacts/image/prepared.ts';
import { awaitOr } from '../../base/ignore.ts';
import { namesIn } from '../../base/names-in.ts';
import { STAT_BLOCK_BYTES } from '../../base/units.ts';
import type { TemplateSpec } from '../../sandbox/contract/spec.ts';
import { TEMPLATE_FILES } from '../../sandbox/start/template.ts';

export interface TemplateInfo extends Readonly<Omit<Details, 'spec' | 'stateSha256' | 'warm' | 'hasPython'>> {
  readonly key: string;
  readonly spec: TemplateSpec;
  /** True if made with the current kernel, image, VMM, processor and package index. */
  readonly current: boolean;
  /** Disk usage by file, bytes. */
  readonly files: Readonly<Record<string, number>>;
}

/** Directory in the cache. */
export const TEMPLATE_KIND = 'template';

export const specSchema = z.object({
  cpus: z.number(),
  memoryMib: z.number(),
  memoryMaxMib: z.number().exactOptional(),
  diskMib: z.number(),
  warm: z.array(z.string()),
  card: z.boolean().exactOptional(),
  requirements: z.array(z.string()).exactOptional(),
  packagesMinAgeMs: z.number().exactOptional(),
  start: z.object({ command: z.string(), ready: z.string(), readyTimeoutMs: z.number() }).exactOptional(),
  environment: z
    .object({
      image: z.string(),
      imageDigest: z.string(),
      digest: z.string(),
      user: z.string(),
      env: z.record(z.string(), z.string()),
      workdir: z.string(),
      entrypoint: z.array(z.string()).readonly(),
      cmd: z.array(z.string()).readonly(),
      exposedPorts: z.array(z.string()).readonly(),
      stopSignal: z.string().nullable(),
    })
    .exactOptional(),
});

export const detailsSchema = z.object({
  spec: specSchema,
  // Omitted by earlier versions, whose templates are listed and removed, but never opened.
  warm: z.array(z.string()).default([]),
  hasPython: z.boolean().default(true),
  machine: z.string(),
  stateSha256: z.string(),
  kernelDigest: z.string(),
  rootImageDigest: z.string(),
  madeAtMs: z.number(),
  modules: z.array(z.object({ name: z.string(), durationMs: z.number() })),
});
export type Details = z.infer<typeof detailsSchema>;

export type KeyNow = (spec: TemplateSpec) => Promise<string | null>;

/**
 * Lists templates, newest first.
 * @param keyNow returns the key of a template built now; omitted if none can be built now
 */
export async function keptTemplates(
  cacheDir: string,
  keyNow: KeyNow = async () => null,
): Promise<readonly TemplateInfo[]> {
  const infos: TemplateInfo[] = [];
  for (const key of await namesIn(join(cacheDir, TEMPLATE_KIND))) {
    const info = await readTemplate(cacheDir, key, keyNow);
    if (info !== undefined) infos.push(info);
  }
  return infos.sort((a, b) => b.madeAtMs - a.madeAtMs);
}

/** Returns false if there is no such template. */
export async function removeTemplate(context: LockContext, key: string): Promise<boolean> {
  const parent = join(context.cacheDir, TEMPLATE_KIND);
  if (!(await namesIn(parent)).includes(key)) return false;
  await withArtifactLock(context, { kind: TEMPLATE_KIND, key }, 'build this template', () =>
    rm(join(parent, key), { recursive: true, force: true }),
  );
  return true;
}

/** Runs `work`, which changes template names, under their lock. */
export function withNamesLock<T>(context: LockContext, work: () => Promise<T>): Promise<T> {
  const path = join(context.cacheDir, 'locks', 'template-names');
  return withFileLock(context, path, 'name a template', work);
}

/** True if the runtime can open without installing or building anything, except perhaps a model. */
export async function isSetUp(context: PrepareContext): Promise<boolean> {
  if (!(await isPrepared(context, { withModel: false }))) return false;
  return (await missingHostPackages(RUN_PACKAGES)).length === 0;
}

async function readTemplate(cacheDir: string, key: string, keyNow: KeyNow): Promise<TemplateInfo | undefined> {
  const dir = join(cacheDir, TEMPLATE_KIND, key);
  return await awaitOr(undefined, 'a damaged template is rebuilt when needed', async () => {
    const manifest: unknown = JSON.parse(await readFile(join(dir, MANIFEST), 'utf8'));
    const { details } = z.object({ details: detailsSchema }).parse(manifest);
    const files: Record<string, number> = {};
    for (const name of Object.values(TEMPLATE_FILES)) {
      files[name] = (await stat(join(dir, name))).blocks * STAT_BLOCK_BYTES;
    }
    const { stateSha256: _, warm: _warm, hasPython: _python, ...shown } = details;
    return { key, ...shown, current: (await keyNow(details.spec)) === key, files };
  });
}
