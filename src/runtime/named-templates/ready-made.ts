/** The environments that NeuroVisor brings: Dockerfiles in `environments/`, each built when it is first used. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import type { EnvironmentSource } from '../../sandbox/environment.ts';
import { DEFAULTS, type StartCommand, type TemplateSpec } from '../../sandbox/spec.ts';
import type { NamedTemplate } from '../../sandbox/start/template.ts';
import type { Images, ImagesContext, PulledImage } from '../images.ts';
import { SOURCE_DIR } from '../setup.ts';
import { templateSpec } from './spec.ts';

export interface ReadyMade {
  /** The one that it is made from; null: the default environment. */
  readonly from: string | null;
  /** Of the template with its name, MiB. */
  readonly memoryMib: number;
  readonly diskMib: number;
  /** Without `from`; 2 cores in software emulation. */
  readonly estimateMs: number;
  /** The program that each clone has running. */
  readonly start?: StartCommand;
}

/** E2B's code interpreter (`environments/code-interpreter`), with warm kernels. */
const CODE_INTERPRETER: StartCommand = {
  command: 'exec python3 -m code_interpreter',
  ready: 'curl -fs http://127.0.0.1:49999/health',
  // It imports the packages for data science, in software emulation.
  readyTimeoutMs: 300_000,
};

/** By name, which is also the name of its template. */
export const READY_MADE: ReadonlyMap<string, ReadyMade> = new Map([
  ['base', { from: null, memoryMib: 1024, diskMib: 4096, estimateMs: 300_000 }],
  [
    'code-interpreter',
    {
      from: 'base',
      memoryMib: 1024,
      diskMib: 4096,
      estimateMs: 300_000,
      start: CODE_INTERPRETER,
    },
  ],
]);

/** Builds it, or finds it. A function of the composition root, since builds need a runtime themselves. */
export type BuildReadyMade = (
  context: ImagesContext,
  images: Images,
  name: string,
) => Promise<PulledImage>;

export function readyMadeDir(name: string): string {
  return join(SOURCE_DIR, 'environments', name);
}

/**
 * A digest of what the environment is made from, but for what indexes answer.
 * @param systemDigest of the default environment
 */
export async function readyMadeRecipe(name: string, systemDigest: string): Promise<string> {
  const hash = createHash('sha256').update(systemDigest);
  for (let one: string | null = name; one !== null; one = READY_MADE.get(one)?.from ?? null) {
    const { start } = READY_MADE.get(one) ?? {};
    if (start !== undefined) hash.update(JSON.stringify(start));
    for (const file of await filesOf(readyMadeDir(one))) {
      hash.update(file).update(await readFile(join(readyMadeDir(one), file)));
    }
  }
  return hash.digest('hex');
}

/** Without what Python leaves beside its sources. */
async function filesOf(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const files = entries.filter((one) => one.isFile() && !one.parentPath.endsWith('__pycache__'));
  return files.map(({ parentPath, name }) => relative(dir, join(parentPath, name))).sort();
}

interface ReadyMadeParts {
  readonly systemDigest: string;
  readonly names: {
    /** The stored template, if it was made by this recipe. */
    readyMade(name: string, recipe: string): Promise<NamedTemplate | undefined>;
  };
  build(): Promise<EnvironmentSource>;
  /** @param path of the disk's file, of which it makes a second name */
  keep(name: string, spec: TemplateSpec, path: string, recipe: string): Promise<void>;
}

/** What the template of a ready-made environment is made of; the environment is built if it is missing or outdated. */
export async function readyMadeTemplate(
  name: string,
  { systemDigest, names, build, keep }: ReadyMadeParts,
): Promise<NamedTemplate> {
  const recipe = await readyMadeRecipe(name, systemDigest);
  const known = await names.readyMade(name, recipe);
  if (known !== undefined) return known;
  const image = await build();
  const { memoryMib, diskMib, start } = { start: undefined, ...(READY_MADE.get(name) ?? DEFAULTS) };
  const spec = {
    ...templateSpec({ memoryMib, diskMib }, image),
    ...(start === undefined ? {} : { start }),
  };
  await keep(name, spec, image.path, recipe);
  return (await names.readyMade(name, recipe)) ?? { name, spec, image };
}
