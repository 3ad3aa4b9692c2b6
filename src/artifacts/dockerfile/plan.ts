/**
 * Plans a build: the steps of each stage that the target needs, with the key of each result. Runs nothing, but fetches
 * the images of bases, and reads the context's files for their digests.
 *
 *     stages ─► base's configuration ─► steps ─► keys: base, step, files, keys of other stages
 */
import type { ImageConfig } from '../oci/documents.ts';
import type { Base, BaseDisk } from './base.ts';
import type { BuildContext, Selection } from './context.ts';
import { EMPTY_CONFIG, evaluateStage, type Inherited, NOTHING_INHERITED, type Step } from './evaluate.ts';
import { baseKey, type StepKey, stepKey } from './keys.ts';
import type { Source, Stage, StageGraph, Variables } from './stages.ts';

export const SCRATCH: Base = { disk: { kind: 'none', path: '', digest: null }, config: EMPTY_CONFIG };

export interface PlannedStep {
  readonly step: Step;
  /** Key of the stage's files after this step. */
  readonly key: StepKey;
  /** Files that COPY, or mounts of RUN in order, take from the context, if any. */
  readonly selection: Selection | null;
}

/** A stage, or an image whose files are copied: the latter has no steps, and the key of its disk. */
export interface PlannedStage {
  /** For people. */
  readonly name: string;
  readonly disk: BaseDisk;
  /** The stage that this one continues, if any. */
  readonly parent: PlannedStage | null;
  readonly baseKey: StepKey;
  readonly steps: readonly PlannedStep[];
  readonly config: ImageConfig;
  readonly inherited: Inherited;
  readonly key: StepKey;
  /** True if a step of this stage, or of a continued stage, changes files of the base. */
  readonly isChanged: boolean;
  /** Stages and images that its steps read, by `sourceName`. */
  readonly sources: ReadonlyMap<string, PlannedStage>;
}

export interface PlanOptions {
  readonly graph: StageGraph;
  readonly given: Variables;
  readonly platform: Variables;
  readonly context: BuildContext;
  /** @throws DockerfileError, OciError */
  base(source: SourceToFind): Promise<Base>;
  readonly signal: AbortSignal;
  warn(text: string): void;
}

/** Sources that the caller of a build must find. */
export type SourceToFind = Exclude<Source, { kind: 'stage' | 'scratch' | 'given' }>;

export const sourceName = (source: Source): string =>
  source.kind === 'stage'
    ? `stage ${source.index}`
    : source.kind === 'image'
      ? `image ${source.reference}`
      : source.kind;

export class Planner {
  readonly #options: PlanOptions;
  readonly #planned = new Map<string, PlannedStage>();

  constructor(options: PlanOptions) {
    this.#options = options;
  }

  /** @throws DockerfileError, OciError */
  async plan(source: Source): Promise<PlannedStage> {
    const name = sourceName(source);
    const known = this.#planned.get(name);
    if (known !== undefined) return known;
    const planned = source.kind === 'stage' ? await this.#stage(source.index) : await this.#image(source, name);
    this.#planned.set(name, planned);
    return planned;
  }

  async #image(source: Exclude<Source, { kind: 'stage' }>, name: string): Promise<PlannedStage> {
    const { disk, config } = await this.#base(source);
    const key = baseKey(disk.digest);
    const sources = new Map<string, PlannedStage>();
    const nothing = { parent: null, steps: [], isChanged: false, sources };
    const inherited = NOTHING_INHERITED;
    return { name, disk, config, baseKey: key, key, inherited, ...nothing };
  }

  async #base(source: Exclude<Source, { kind: 'stage' }>): Promise<Base> {
    if (source.kind === 'given') return source.base;
    return source.kind === 'scratch' ? SCRATCH : await this.#options.base(source);
  }

  async #stage(index: number): Promise<PlannedStage> {
    const { graph, given, platform, warn } = this.#options;
    const stage = graph.stages[index] as Stage;
    const base = await this.plan(stage.base);
    const evaluated = evaluateStage({ graph, stage, base: base.config, inherited: base.inherited, given, platform });
    for (const warning of evaluated.warnings) warn(warning);
    const sources = new Map<string, PlannedStage>();
    const steps: PlannedStep[] = [];
    let key = base.key;
    for (const step of evaluated.steps) {
      const selection = await this.#select(step);
      const files: string[] = selection === null ? [] : [selection.digest];
      for (const source of readBy(step)) {
        const read = await this.plan(source);
        sources.set(sourceName(source), read);
        files.push(read.key);
      }
      key = stepKey(key, step, files);
      steps.push({ step, key, selection });
    }
    const isParent = stage.base.kind === 'stage';
    return {
      name: stage.name ?? `stage ${index}`,
      disk: base.disk,
      parent: isParent ? base : null,
      baseKey: base.key,
      steps,
      config: evaluated.config,
      inherited: evaluated.inherited,
      key,
      isChanged: base.isChanged || steps.length > 0,
      sources,
    };
  }

  async #select(step: Step): Promise<Selection | null> {
    const { context, signal } = this.#options;
    if (step.kind === 'run') {
      const sources = step.mounts.flatMap((mount) =>
        mount.type === 'bind' && mount.from === null ? [mount.source] : [],
      );
      return sources.length === 0 ? null : await context.select(step.line, sources, [], signal);
    }
    if (step.kind !== 'copy' || step.from !== null || step.archive !== undefined) return null;
    return await context.select(step.line, step.sources, step.inline, signal);
  }
}

export function readBy(step: Step): readonly Source[] {
  if (step.kind === 'copy') return step.from === null ? [] : [step.from];
  if (step.kind === 'workdir') return [];
  return step.mounts.flatMap((mount) => (mount.type === 'bind' && mount.from !== null ? [mount.from] : []));
}
