/** Templates of the environments that NeuroVisor ships. */
import { READY_MADE, readyMadeRecipe } from '../../../artifacts/ready-made.ts';
import type { EnvironmentSource } from '../../../sandbox/contract/environment.ts';
import { DEFAULTS } from '../../../sandbox/contract/limits.ts';
import type { TemplateSpec } from '../../../sandbox/contract/spec.ts';
import type { NamedTemplate } from '../../../sandbox/start/template.ts';
import type { Images, ImagesContext, PulledImage } from '../images.ts';
import { templateSpec } from './spec.ts';

/** Builds it, or finds it. Injected by the composition root, since builds need a runtime themselves. */
export type BuildReadyMade = (context: ImagesContext, images: Images, name: string) => Promise<PulledImage>;

interface ReadyMadeParts {
  readonly systemDigest: string;
  readonly names: {
    /** The stored template, if it was made by this recipe. */
    readyMade(name: string, recipe: string): Promise<NamedTemplate | undefined>;
  };
  build(): Promise<EnvironmentSource>;
  /** @param path the disk's file, to be linked */
  keep(name: string, spec: TemplateSpec, path: string, recipe: string): Promise<void>;
}

/** The spec of a ready-made environment's template; builds the environment if it is missing or outdated. */
export async function readyMadeTemplate(
  name: string,
  { systemDigest, names, build, keep }: ReadyMadeParts,
): Promise<NamedTemplate> {
  const recipe = await readyMadeRecipe(name, systemDigest);
  const known = await names.readyMade(name, recipe);
  if (known !== undefined) return known;
  const image = await build();
  const { memoryMib, diskMib, start } = { start: undefined, ...(READY_MADE.get(name) ?? DEFAULTS) };
  const spec = { ...templateSpec({ memoryMib, diskMib }, image), ...(start === undefined ? {} : { start }) };
  await keep(name, spec, image.path, recipe);
  return (await names.readyMade(name, recipe)) ?? { name, spec, image };
}
