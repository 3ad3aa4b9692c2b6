/** Moves named templates between hosts: by a directory, or by a registry with skopeo. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import {
  ENVIRONMENT_PACKAGES,
  installHostPackages,
  missingHostPackages,
} from '../../../artifacts/image/host-packages.ts';
import type { PrepareContext } from '../../../artifacts/image/prepare.ts';
import { fetchArtifact, pushArtifact } from '../../../artifacts/oci/artifacts.ts';
import { parseReference, type Reference } from '../../../artifacts/oci/reference.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import type { NamedTemplate } from '../../../sandbox/start/template.ts';
import { withNamesLock } from '../kept-templates.ts';
import { LAYOUT_TAG, parseManifest, readTemplate, writeTemplate } from './layout.ts';
import { checkNewName, type TemplateNames } from './names.ts';

/**
 * Sets the name of the template in a directory. Builds nothing: the first use does.
 * @param name default: the name that it was exported with
 * @param from the source's name, for errors
 * @throws SandboxError `not_found`, `spec_invalid`, `name_taken`, `disk_full`
 */
export async function importTemplate(
  context: PrepareContext,
  names: TemplateNames,
  dir: string,
  name?: string,
  from: string = dir,
): Promise<NamedTemplate> {
  const packed = await readTemplate(dir, availableParallelism(), from);
  const own = name ?? packed.name;
  checkNewName(own);
  await withNamesLock(context, async () => {
    if (await names.has(own)) throw taken(own);
    await names.set(own, packed.spec, async (path) => packed.writeDisk?.(path, context.signal));
  });
  return await names.get(own);
}

/** @throws SandboxError, OciError */
export async function pushTemplate(context: PrepareContext, template: NamedTemplate, to: string): Promise<string> {
  const reference = registryReference(to);
  return await withDirectory(context, async (dir) => {
    const layout = join(dir, 'layout');
    await writeTemplate(template, layout, context.signal);
    await pushArtifact({ layout: `oci:${layout}:${LAYOUT_TAG}`, reference, signal: context.signal });
    return reference.text;
  });
}

/** @throws SandboxError, OciError */
export async function pullTemplate(
  context: PrepareContext,
  names: TemplateNames,
  from: string,
  name?: string,
): Promise<NamedTemplate> {
  const reference = registryReference(from);
  // Check before the fetch, if the name is known.
  if (name !== undefined) {
    checkNewName(name);
    if (await names.has(name)) throw taken(name);
  }
  return await withDirectory(context, async (dir) => {
    const layout = join(dir, 'layout');
    const { signal } = context;
    await fetchArtifact({
      reference,
      dir,
      to: `oci:${layout}:${LAYOUT_TAG}`,
      signal,
      check: (manifest) => {
        const { config, layers } = parseManifest(manifest, reference.text);
        return [config, ...layers].reduce((sum, { size }) => sum + size, 0);
      },
    });
    return await importTemplate(context, names, layout, name, reference.text);
  });
}

async function withDirectory<T>(context: PrepareContext, work: (dir: string) => Promise<T>): Promise<T> {
  await installHostPackages(context, await missingHostPackages(ENVIRONMENT_PACKAGES));
  // A killed process's leftovers there are removed after a day.
  const parent = join(context.cacheDir, 'oci/tmp');
  await mkdir(parent, { recursive: true });
  const dir = await mkdtemp(join(parent, 'template-'));
  try {
    return await work(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function registryReference(text: string): Reference {
  const reference = parseReference(text, process.cwd());
  if (reference.repository !== null) return reference;
  throw new SandboxError('spec_invalid', `"${text.slice(0, 200)}" is not in a registry`, {
    remedy: 'use REGISTRY/NAME:TAG; for a directory: neurovisor template export or import',
  });
}

function taken(name: string): SandboxError {
  return new SandboxError('name_taken', `there is a template "${name}" already`, {
    remedy: `name this one otherwise (-t NAME), or remove the other: neurovisor template rm ${name}`,
  });
}
