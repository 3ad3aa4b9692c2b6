/**
 * Chooses the model server for guests: the configured one, else a known local one, else the built-in engine, which the
 * first request starts.
 */
import { join } from 'node:path';
import { systemClock } from '../base/clock.ts';
import { describeError } from '../base/errors.ts';
import { newSandboxId } from '../base/ids.ts';
import { ignore } from '../base/ignore.ts';
import type { Log } from '../base/log.ts';
import type { BridgePolicy, UpstreamSource, UpstreamTarget } from '../bridge/bridge.ts';
import { endpointOf } from '../bridge/upstream/address.ts';
import { type DetectOptions, detectUpstream, USUAL_PLACES } from '../bridge/upstream/detect.ts';
import {
  describeOwners,
  isTrustedOwner,
  listenerOwners,
} from '../bridge/upstream/listener-owner.ts';
import type { Config } from '../config.ts';
import { type Engine, startEngine } from '../engine/process.ts';
import { MODEL_ID } from '../image/model.ts';
import type { Workspace } from '../sandbox/parts.ts';
import type { ModelPolicy } from '../sandbox/spec.ts';
import { type EngineJail, openEngineJail } from './engine-jail.ts';
import { RuntimeError } from './errors.ts';
import { readModelsFile } from './model-servers/models-file.ts';
import { openServers } from './model-servers/servers.ts';
import type { Model } from './setup.ts';
import { makeWorkspace } from './workspace.ts';

export interface Upstream {
  /** For people, e.g. `Ollama at 127.0.0.1:11434`. */
  readonly description: string;
  /** True: set-up must fetch the small model. */
  readonly needsModel: boolean;
  /** The default model of scripts; null: the server lists none. */
  readonly defaultModel: string | null;
  /** Names of its models; null: the engine, which has the one that it was given. */
  readonly models: readonly string[] | null;
  /** Asks the server for the current names of its models; null: it does not list them. */
  offered(): Promise<readonly string[] | null>;
  /** For the bridge. @param model of the engine */
  source(model: Model | null): UpstreamSource;
  /** Starts what the first request would start. */
  warm(model: Model | null): Promise<void>;
  close(): Promise<void>;
}

export interface UpstreamOptions {
  readonly config: Config;
  readonly runDir: string;
  /** Of the engine's jail. */
  readonly cacheDir: string;
  readonly modelPath: string | undefined;
  readonly log: Log;
  /** Default: the default addresses of common local servers, and the kernel's table of sockets. */
  readonly detection?: Pick<DetectOptions, 'places' | 'ownersOf'>;
}

/** Longest wait of `host` for its model server, milliseconds. */
const ASK_MS_MAX = 1000;

/**
 * @throws RuntimeError `upstream_unreachable`: the configured server does not answer
 * @throws BridgeError `models_file_invalid`
 */
export async function chooseUpstream(options: UpstreamOptions): Promise<Upstream> {
  const { config, modelPath, log } = options;
  if (modelPath !== undefined || config.upstream === 'engine') return new EngineUpstream(options);
  const file = readModelsFile(config);
  if (file !== null) return openServers(file, { log, reread: () => readModelsFile(config) });
  if (config.upstream === 'auto') return detectedUpstream(options);
  const explicit = config.upstream;
  const key = config.upstreamKey === null ? {} : { apiKey: config.upstreamKey };
  const found = await detectUpstream({ explicit, ...key });
  if (found !== null) {
    return serverUpstream(withSlots(found, config), async () => {
      return (await detectUpstream({ explicit, ...key, timeoutMs: ASK_MS_MAX }))?.models;
    });
  }
  throw new RuntimeError(
    'upstream_unreachable',
    `no OpenAI-compatible server answers at ${explicit}`,
    { remedy: 'start it, correct NEUROVISOR_UPSTREAM, or unset it to use the built-in engine' },
  );
}

/** A server on a default port, which never gets the key; else the engine. */
async function detectedUpstream(options: UpstreamOptions): Promise<Upstream> {
  const { detection = {}, log } = options;
  const detected = await detectUpstream({ ...detection, log });
  if (detected === null) return new EngineUpstream(options);
  const found = withSlots(detected, options.config);
  const { places = USUAL_PLACES } = detection;
  // The same place again, with the check of its owner: another process may have taken the port.
  const same = places.filter(({ baseUrl }) => baseUrl === found.baseUrl);
  const again = { ...detection, places: same, timeoutMs: ASK_MS_MAX, log };
  const upstream = serverUpstream(found, async () => (await detectUpstream(again))?.models);
  const { ownersOf = listenerOwners } = detection;
  const { port } = endpointOf(found);
  // Another user may have taken the port since. Without any listener, the connection fails by itself.
  return {
    ...upstream,
    source: () => async () => {
      const uids = await ownersOf(port);
      if (uids.length === 0 || isTrustedOwner(uids)) return found;
      const owner = await describeOwners(uids);
      throw new RuntimeError('upstream_unreachable', `${found.name} now belongs to ${owner}`, {
        remedy: 'start the model server again, or set NEUROVISOR_UPSTREAM to another one',
      });
    },
  };
}

function withSlots(target: UpstreamTarget, { upstreamSlots }: Config): UpstreamTarget {
  return upstreamSlots === null ? target : { ...target, slots: upstreamSlots };
}

/** @param ask returns the current models; undefined: no answer */
function serverUpstream(
  target: UpstreamTarget,
  ask: () => Promise<readonly string[] | null | undefined>,
): Upstream {
  const models = target.models ?? null;
  return {
    description:
      target.owner === undefined ? target.name : `${target.name}, run by ${target.owner}`,
    needsModel: false,
    defaultModel: target.models?.[0] ?? null,
    models,
    offered: async () => (await ask()) ?? models,
    source: () => () => Promise.resolve(target),
    warm: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}

class EngineUpstream implements Upstream {
  readonly description = 'built-in engine';
  readonly needsModel: boolean;
  readonly models = null;
  readonly #options: UpstreamOptions;
  #starting: Promise<{ engine: Engine; remove: () => Promise<void> }> | undefined;
  /** The fewest that an engine has, until it has told. */
  #slots = 2;

  constructor(options: UpstreamOptions) {
    this.#options = options;
    this.needsModel = options.modelPath === undefined;
  }

  get defaultModel(): string {
    const { modelPath } = this.#options;
    return modelPath === undefined ? MODEL_ID : modelIdOf(modelPath);
  }

  async offered(): Promise<readonly string[]> {
    return [this.defaultModel];
  }

  source(model: Model | null): () => Promise<UpstreamTarget> {
    return () => this.#target(model);
  }

  async warm(model: Model | null): Promise<void> {
    await this.#target(model);
  }

  async #target(model: Model | null): Promise<UpstreamTarget> {
    this.#starting ??= this.#start(model).catch((error: unknown) => {
      // The next request tries again: the cause, e.g. low memory, may be temporary.
      this.#starting = undefined;
      throw error;
    });
    const { engine } = await this.#starting;
    return {
      name: this.description,
      socketPath: engine.socketPath,
      models: [engine.modelId],
      modelOwner: 'neurovisor',
      slots: this.#options.config.upstreamSlots ?? this.#slots,
    };
  }

  async close(): Promise<void> {
    const started = await this.#starting?.catch(() => undefined);
    await started?.engine.stop();
    await started?.remove();
  }

  async #start(model: Model | null): Promise<{ engine: Engine; remove: () => Promise<void> }> {
    const { config, modelPath, log, runDir, cacheDir } = this.#options;
    // A directory like a sandbox's, so that it is reclaimed like one after a kill.
    const id = newSandboxId();
    const workspace = await makeWorkspace(runDir, id);
    let jail: EngineJail | null = null;
    try {
      jail = await openEngineJail({ config, cacheDir, log, id, dir: workspace.dir });
      const engine = await startEngine({
        modelPath: modelPath ?? model?.path ?? '',
        modelId: this.defaultModel,
        socketPath: join(workspace.dir, 'engine.sock'),
        gpu: config.gpu,
        clock: systemClock,
        log,
        ...(jail === null ? {} : { launch: jail.launch }),
      });
      engine.ready.then(
        ({ slots }) => {
          this.#slots = slots;
        },
        (error: unknown) => ignore(error, 'each request reports it'),
      );
      const removed = engine.exited.then(async () => {
        this.#starting = undefined;
        await remove(workspace, jail);
      });
      removed.catch((error: unknown) => {
        log.warn('could not remove what the engine left', { error: describeError(error) });
      });
      await workspace.recordVmm(engine.pid);
      if (jail?.hasGpu === true && config.gpu === 'auto') warnWithoutGpu(engine, log);
      return { engine, remove: () => removed };
    } catch (error) {
      await remove(workspace, jail);
      throw error;
    }
  }
}

/** Which paths a GPU's driver needs differs from one to the next, so its jail may lack some. */
function warnWithoutGpu(engine: Engine, log: Log): void {
  const check = async (): Promise<void> => {
    if ((await engine.ready).gpu !== 'cpu') return;
    const remedy = 'try --jail off, or another model server, if `neurovisor doctor` finds a GPU';
    log.warn('the engine computes without the GPU of this host', { remedy });
  };
  check().catch((error: unknown) => ignore(error, 'the engine reports it'));
}

async function remove(workspace: Workspace, jail: EngineJail | null): Promise<void> {
  await jail?.close();
  await workspace.remove();
}

/** `/models/Qwen2.5-0.5B-Q4_K_M.gguf` → `Qwen2.5-0.5B-Q4_K_M`. */
export function modelIdOf(path: string): string {
  return path.replace(/^.*\//, '').replace(/\.gguf$/i, '');
}

/** What the bridge allows a sandbox: its own policy and the host's. */
export function bridgePolicy(models: ModelPolicy, config: Config): BridgePolicy {
  return {
    aliases: models.aliases,
    allowHosted: models.allowHosted,
    allowFields: [...config.allowFields, ...models.allowFields],
    showCacheHits: config.showCacheHits,
    priority: models.priority,
    budget: models.budget,
    ...(models.allow === null ? {} : { allowModels: models.allow }),
    ...(models.defaultModel === null ? {} : { defaultModel: models.defaultModel }),
  };
}
