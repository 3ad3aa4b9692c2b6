/**
 * Builds an environment from a Dockerfile.
 *
 *     plan ─► for each stage that the target needs, unless its last step is cached:
 *               a VM from its last cached step ─► steps ─► after each: the scratch disk into the cache
 *          ─► the target's VM packs base and scratch disk ─► an environment, kept with the pulled images
 *
 * Each stage has its own VM. A hostile base that takes over its VM spoils only results whose keys name that base.
 */
import { createHash } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { systemClock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import type { BuildEvent } from '../../sandbox/contract/contents.ts';
import type { ImageConfig } from '../oci/documents.ts';
import type { Base } from './base.ts';
import type { BuildCache } from './cache.ts';
import { archiveOf, BuildContext, type Selection } from './context.ts';
import { DockerfileError, diskFull, invalid } from './errors.ts';
import type { CopyStep, RunStep, Step } from './evaluate.ts';
import { digest, type StepKey } from './keys.ts';
import type { RunMount } from './mounts.ts';
import { parseDockerfile } from './parse.ts';
import { type PlannedStage, type PlannedStep, Planner, readBy, type SourceToFind, sourceName } from './plan.ts';
import type { OnOutput, StageDisks, StageVm, StepMount } from './stage-vm.ts';
import { platformArguments, readStages, type StageGraph, targetStage, type Variables } from './stages.ts';
import { faultOf, Tail } from './step-fault.ts';
import { cachesKey, copyPlan, withUser } from './step-plan.ts';

export interface BuildRequest {
  /** Its text, or the stages that it would have been parsed to. */
  readonly dockerfile: Uint8Array | StageGraph;
  /** Path for its own ignore rules; `null` if it has none. */
  readonly dockerfilePath: string | null;
  readonly contextDir: string;
  /**
   * Present if a client has sent the files: `contextDir` is where they lie for this build, and this is the name of where
   * they are from, which selects the disks of cache mounts.
   */
  readonly sentFrom?: string;
  readonly buildArgs: Variables;
  /** Name or number of a stage; `null` for the last. */
  readonly target: string | null;
  readonly secrets: ReadonlyMap<string, Uint8Array>;
  /** If true, no step of an earlier build is reused. */
  readonly noCache: boolean;
  /** SHA-256 → path of archives that instructions name. They are hostile: only VMs open them. */
  readonly archives?: ReadonlyMap<string, string>;
}

export interface Built {
  readonly key: StepKey;
  readonly config: ImageConfig;
  readonly warnings: readonly string[];
  readonly steps: { readonly run: number; readonly cached: number };
}

export interface BuildParts {
  /** As in image manifests. */
  readonly architecture: string;
  readonly cache: BuildCache;
  readonly diskBytes: number;
  /** @throws OciError */
  base(source: SourceToFind, signal: AbortSignal): Promise<Base>;
  startVm(disks: StageDisks, signal: AbortSignal): Promise<StageVm>;
  /** True if an environment of these files exists. */
  hasEnvironment(key: StepKey): Promise<boolean>;
  /** Path of a new file for it, on the cache's file system. */
  environmentPath(key: StepKey): Promise<string>;
  keepEnvironment(key: StepKey, path: string, signal: AbortSignal): Promise<void>;
  onEvent(event: BuildEvent): void;
}

/** @throws DockerfileError, OciError */
export async function buildDockerfile(parts: BuildParts, request: BuildRequest, signal: AbortSignal): Promise<Built> {
  try {
    return await new Build(parts, request, signal).run();
  } catch (error) {
    if (signal.aborted) {
      throw new DockerfileError('cancelled', null, 'the build was canceled', { cause: signal.reason });
    }
    const code = errorCode(error);
    if (code === 'ENOSPC' || code === 'EDQUOT') throw diskFull(null, error);
    throw error;
  }
}

class Build {
  readonly #parts: BuildParts;
  readonly #request: BuildRequest;
  readonly #signal: AbortSignal;
  readonly #warnings: string[] = [];
  /** With `noCache`, the only results that may be used. */
  readonly #made = new Set<StepKey>();
  /** Results that later stages read. */
  readonly #needed = new Set<StepKey>();
  /** Real path, or the name of where the files are from. */
  #origin = '';
  #number = 0;
  #ran = 0;
  #cached = 0;

  constructor(parts: BuildParts, request: BuildRequest, signal: AbortSignal) {
    this.#parts = parts;
    this.#request = request;
    this.#signal = signal;
  }

  async run(): Promise<Built> {
    const { dockerfile, dockerfilePath, contextDir, sentFrom, buildArgs, target } = this.#request;
    const { architecture, cache, base } = this.#parts;
    const platform = platformArguments(architecture);
    const isText = dockerfile instanceof Uint8Array;
    const graph = isText ? this.#read(dockerfile, buildArgs, platform) : dockerfile;
    const stage = targetStage(graph, target);
    const isSent = sentFrom !== undefined;
    const context = await (isSent ? BuildContext.openSent(contextDir) : BuildContext.open(contextDir, dockerfilePath));
    this.#origin = isSent ? `sent:${sentFrom}` : context.dir;
    const planner = new Planner({
      graph,
      given: buildArgs,
      platform,
      context,
      base: (source) => base(source, this.#signal),
      signal: this.#signal,
      warn: (text) => this.#warn(text),
    });
    const planned = await planner.plan({ kind: 'stage', index: stage.index });
    if (planned.disk.kind === 'none' && !planned.isChanged) {
      throw invalid(stage.line, 'the result has no files', 'Add a COPY or choose another --target.');
    }
    this.#requireSecrets(planned);
    await cache.make();
    try {
      await this.#environment(planned);
    } finally {
      await cache.enforceBound(this.#needed);
    }
    const steps = { run: this.#ran, cached: this.#cached };
    const config = planned.disk.hasUser === true ? withUser(planned.config) : planned.config;
    return { key: planned.key, config, warnings: this.#warnings, steps };
  }

  #read(text: Uint8Array, buildArgs: Variables, platform: Variables): StageGraph {
    const parsed = parseDockerfile(text);
    const graph = readStages(parsed, buildArgs, platform);
    const declared = parsed.instructions.filter(({ keyword }) => keyword === 'ARG');
    for (const name of Object.keys(buildArgs)) {
      const isUsed = declared.some(({ rest }) => new RegExp(`(^|\\s)${name}(=|\\s|$)`).test(rest));
      if (!isUsed) this.#warn(`the build argument ${name} is not used: no ARG declares it`);
    }
    return graph;
  }

  #warn(text: string): void {
    this.#warnings.push(text);
    this.#parts.onEvent({ kind: 'warning', text });
  }

  /** Called before anything runs. @param seen each stage once: there may be up to 2^stages paths to one */
  #requireSecrets(stage: PlannedStage, seen = new Set<PlannedStage>()): void {
    if (seen.has(stage)) return;
    seen.add(stage);
    for (const { step } of stage.steps) {
      if (step.kind !== 'run') continue;
      for (const mount of step.mounts) {
        if (mount.type !== 'secret' || !mount.required) continue;
        if (this.#request.secrets.has(mount.id)) continue;
        throw new DockerfileError('secret_missing', step.line, `the secret ${mount.id} is required`, {
          remedy: `Give it: --build-secret id=${mount.id},src=FILE`,
        });
      }
    }
    if (stage.parent !== null) this.#requireSecrets(stage.parent, seen);
    for (const source of stage.sources.values()) this.#requireSecrets(source, seen);
  }

  async #environment(stage: PlannedStage): Promise<void> {
    const { cache, hasEnvironment } = this.#parts;
    await cache.alone(digest(['environment', stage.key]), this.#signal, async () => {
      if (!this.#request.noCache && (await hasEnvironment(stage.key))) {
        this.#reportCached(stage, stage.steps.length);
        return;
      }
      await this.#make(stage, true);
    });
  }

  /** @returns key of the scratch disk with the stage's files; `null` if the stage has only its base's files */
  async #files(stage: PlannedStage): Promise<StepKey | null> {
    if (!stage.isChanged) return null;
    // Both have one key, and so one lock.
    if (stage.steps.length === 0 && stage.parent !== null) return await this.#files(stage.parent);
    this.#needed.add(stage.key);
    return await this.#parts.cache.alone(stage.key, this.#signal, async () => {
      if (await this.#has(stage.key)) this.#reportCached(stage, stage.steps.length);
      else await this.#make(stage, false);
      return stage.key;
    });
  }

  async #has(key: StepKey): Promise<boolean> {
    if (this.#request.noCache && !this.#made.has(key)) return false;
    return await this.#parts.cache.has('steps', key, this.#parts.diskBytes);
  }

  /** Runs the steps that are not cached. @param packs true if the result becomes an environment */
  async #make(stage: PlannedStage, packs: boolean): Promise<void> {
    const { cache, startVm, environmentPath, keepEnvironment } = this.#parts;
    const from = await this.#lastCached(stage);
    const rest = stage.steps.slice(from);
    const start =
      from > 0 ? (stage.steps[from - 1]?.key ?? null) : stage.parent === null ? null : await this.#files(stage.parent);
    if (start !== null) this.#needed.add(start);
    this.#reportCached(stage, from);
    const sources = await this.#sources(stage, rest);
    const caches = cachesKey(this.#origin, stage.steps, rest);
    const hasCaches = caches !== null && (await cache.has('mounts', caches));
    const vm = await startVm(
      {
        base: stage.disk,
        fillScratch: start === null ? null : (path) => cache.copy('steps', start, path),
        sources: sources.disks,
        fillCaches:
          caches === null
            ? null
            : async (path) => {
                if (hasCaches) await cache.copy('mounts', caches, path);
              },
        packs,
      },
      this.#signal,
    );
    const unpacked = packs ? await environmentPath(stage.key) : null;
    try {
      for (const [index, planned] of rest.entries()) {
        await this.#step(vm, stage, from + index, planned, sources.numbers);
        const isLast = index === rest.length - 1;
        // Creating a directory again takes no time.
        if (planned.step.kind === 'workdir' && !isLast) continue;
        await cache.keep('steps', planned.key, vm.disks.scratch);
        this.#made.add(planned.key);
        // A step may fill a disk, and a thousand copies of it the host.
        await cache.enforceBound(new Set([...this.#needed, planned.key]));
      }
      if (caches !== null && vm.disks.caches !== null) {
        await cache.keep('mounts', caches, vm.disks.caches);
      }
      if (unpacked !== null) {
        this.#parts.onEvent({ kind: 'pack', stage: stage.name });
        await vm.pack(unpacked).catch((error: unknown) => {
          throw faultOf(error, null, 'the result could not be packed');
        });
        await keepEnvironment(stage.key, unpacked, this.#signal);
      }
    } finally {
      await vm.stop();
      if (unpacked !== null) await rm(unpacked, { force: true });
    }
  }

  /** @returns number of steps whose result is cached */
  async #lastCached(stage: PlannedStage): Promise<number> {
    for (let count = stage.steps.length; count > 0; count -= 1) {
      const key = stage.steps[count - 1]?.key;
      if (key !== undefined && (await this.#has(key))) return count;
    }
    return 0;
  }

  async #sources(
    stage: PlannedStage,
    steps: readonly PlannedStep[],
  ): Promise<{ readonly disks: StageDisks['sources']; readonly numbers: ReadonlyMap<string, number> }> {
    const names = new Set(steps.flatMap(({ step }) => readBy(step).map(sourceName)));
    const disks: { base: PlannedStage['disk']; scratch: string | null }[] = [];
    const numbers = new Map<string, number>();
    for (const name of names) {
      const source = stage.sources.get(name);
      if (source === undefined) continue;
      const key = await this.#files(source);
      numbers.set(name, disks.length);
      const scratch = key === null ? null : this.#parts.cache.path('steps', key);
      disks.push({ base: source.disk, scratch });
    }
    return { disks, numbers };
  }

  #reportCached(stage: PlannedStage, count: number): void {
    for (const [index, { step }] of stage.steps.slice(0, count).entries()) {
      this.#cached += 1;
      this.#reportStep(stage, index, step, true);
    }
  }

  #reportStep(stage: PlannedStage, index: number, step: Step, cached: boolean): number {
    this.#number += 1;
    const { line, text } = step;
    const place = { stage: stage.name, index: index + 1, count: stage.steps.length };
    this.#parts.onEvent({ kind: 'step', number: this.#number, ...place, line, text, cached });
    return this.#number;
  }

  async #step(
    vm: StageVm,
    stage: PlannedStage,
    index: number,
    { step, selection }: PlannedStep,
    numbers: ReadonlyMap<string, number>,
  ): Promise<void> {
    this.#signal.throwIfAborted();
    const number = this.#reportStep(stage, index, step, false);
    const startedAtMs = systemClock.now();
    this.#ran += 1;
    if (step.kind === 'run') await this.#runStep(vm, number, step, selection, numbers);
    else {
      const work = step.kind === 'workdir' ? vm.makeDirectory(step.path) : this.#copyStep(vm, step, selection, numbers);
      await work.catch((error: unknown) => {
        throw faultOf(error, step.line, step.text);
      });
    }
    const durationMs = systemClock.now() - startedAtMs;
    this.#parts.onEvent({ kind: 'done', number, durationMs });
  }

  async #copyStep(
    vm: StageVm,
    step: CopyStep,
    selection: Selection | null,
    numbers: ReadonlyMap<string, number>,
  ): Promise<void> {
    const plan = copyPlan(step, selection?.names ?? [], numbers);
    if (step.archive === undefined) return await vm.copy(plan, selection && archiveOf(selection));
    const path = this.#request.archives?.get(step.archive);
    if (path === undefined) throw invalid(step.line, 'its archive is missing');
    await using file = await open(path);
    const { buffer } = await file.read({ buffer: Buffer.alloc(GZIP_MARK.length), position: 0 });
    const packed = buffer.equals(GZIP_MARK) ? 'gzip' : 'tar';
    await vm.copy({ ...plan, packed }, file.createReadStream({ start: 0, autoClose: false }));
  }

  async #runStep(
    vm: StageVm,
    number: number,
    step: RunStep,
    selection: Selection | null,
    numbers: ReadonlyMap<string, number>,
  ): Promise<void> {
    const { argv, program, env, user, workdir, network } = step;
    let placed = 0;
    const mounts = step.mounts.flatMap((mount): readonly StepMount[] => {
      if (mount.type !== 'bind' || mount.from !== null) return this.#mount(mount, numbers);
      placed += 1;
      return [{ type: 'bind', source: null, path: `${placed - 1}`, target: mount.target }];
    });
    const isFault = (error: unknown): never => {
      throw faultOf(error, step.line, step.text);
    };
    if (selection !== null) await vm.placeFiles(archiveOf(selection)).catch(isFault);
    const tail = new Tail();
    const onOutput: OnOutput = (stream, chunk) => {
      tail.add(chunk);
      this.#parts.onEvent({ kind: 'output', number, stream, chunk });
    };
    const plan = { argv, program, env, user, workdir, network, mounts };
    const end = await vm.run(plan, onOutput).catch(isFault);
    if (end.exitCode === 0) return;
    const how = end.oomKilled
      ? 'ran out of memory'
      : end.exitCode === null
        ? `was ended by ${end.signal}`
        : `ended with status ${end.exitCode}`;
    const said = tail.text();
    const full = /No space left on device/.test(said);
    throw new DockerfileError('step_failed', step.line, `${step.text} ${how}`, {
      cause: said === '' ? 'it printed nothing' : said,
      remedy: end.oomKilled ? 'Give it more: --memory' : full ? 'Give it more: --disk' : undefined,
    });
  }

  #mount(mount: RunMount, numbers: ReadonlyMap<string, number>): readonly StepMount[] {
    if (mount.type === 'tmpfs') return [mount];
    if (mount.type === 'cache') {
      const { id, ...rest } = mount;
      return [{ ...rest, directory: createHash('sha256').update(id).digest('hex') }];
    }
    if (mount.type === 'secret') {
      const { id, required: _required, ...rest } = mount;
      const secret = this.#request.secrets.get(id);
      return secret === undefined ? [] : [{ ...rest, secret }];
    }
    const source = mount.from === null ? undefined : numbers.get(sourceName(mount.from));
    if (source === undefined) return [];
    return [{ type: 'bind', source, path: mount.source, target: mount.target }];
  }
}

const GZIP_MARK = Buffer.of(0x1f, 0x8b);
