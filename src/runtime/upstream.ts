/**
 * Chooses the model server for guests: the configured one, else a known local one, else the built-in engine, which the
 * first request starts.
 */
import { join } from 'node:path';
import { systemClock } from '../base/clock.ts';
import { newSandboxId } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import type { UpstreamTarget } from '../bridge/bridge.ts';
import { detectUpstream } from '../bridge/detect.ts';
import type { Config } from '../config.ts';
import { type Engine, startEngine } from '../engine/process.ts';
import { MODEL_ID } from '../image/model.ts';
import { RuntimeError } from './errors.ts';
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
  target(model: Model | null): Promise<UpstreamTarget>;
  close(): Promise<void>;
}

export interface UpstreamOptions {
  readonly config: Config;
  readonly runDir: string;
  readonly modelPath: string | undefined;
  readonly log: Log;
}

/** Longest wait of `host` for its model server, milliseconds. */
const ASK_MS_MAX = 1000;

/** @throws RuntimeError `upstream_unreachable`: the configured server does not answer */
export async function chooseUpstream(options: UpstreamOptions): Promise<Upstream> {
  const { config, modelPath } = options;
  if (modelPath !== undefined || config.upstream === 'engine') return new EngineUpstream(options);
  const explicit = config.upstream === 'auto' ? undefined : config.upstream;
  const key = config.upstreamKey === null ? {} : { apiKey: config.upstreamKey };
  const found = await detectUpstream({ ...(explicit === undefined ? {} : { explicit }), ...key });
  if (found !== null) {
    const address = explicit ?? found.baseUrl;
    return serverUpstream(found, async () => {
      if (address === undefined) return null;
      return (await detectUpstream({ explicit: address, ...key, timeoutMs: ASK_MS_MAX }))?.models;
    });
  }
  if (explicit === undefined) return new EngineUpstream(options);
  throw new RuntimeError(
    'upstream_unreachable',
    `no OpenAI-compatible server answers at ${explicit}`,
    { remedy: 'start it, correct NEUROVISOR_UPSTREAM, or unset it to use the built-in engine' },
  );
}

/** @param ask returns the current models; undefined: no answer */
function serverUpstream(
  target: UpstreamTarget,
  ask: () => Promise<readonly string[] | null | undefined>,
): Upstream {
  const models = target.models ?? null;
  return {
    description: target.name,
    needsModel: false,
    defaultModel: target.models?.[0] ?? null,
    models,
    offered: async () => (await ask()) ?? models,
    target: () => Promise.resolve(target),
    close: () => Promise.resolve(),
  };
}

class EngineUpstream implements Upstream {
  readonly description = 'built-in engine';
  readonly needsModel: boolean;
  readonly models = null;
  readonly #options: UpstreamOptions;
  #starting: Promise<{ engine: Engine; remove: () => Promise<void> }> | undefined;

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

  async target(model: Model | null): Promise<UpstreamTarget> {
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
    };
  }

  async close(): Promise<void> {
    const started = await this.#starting?.catch(() => undefined);
    await started?.engine.stop();
    await started?.remove();
  }

  async #start(model: Model | null): Promise<{ engine: Engine; remove: () => Promise<void> }> {
    const { config, modelPath, log, runDir } = this.#options;
    // A directory like a sandbox's, so that it is reclaimed like one after a kill.
    const workspace = await makeWorkspace(runDir, newSandboxId());
    try {
      const engine = await startEngine({
        modelPath: modelPath ?? model?.path ?? '',
        modelId: this.defaultModel,
        socketPath: join(workspace.dir, 'engine.sock'),
        gpu: config.gpu,
        clock: systemClock,
        log,
      });
      void engine.exited.then(() => {
        this.#starting = undefined;
      });
      return { engine, remove: () => workspace.remove() };
    } catch (error) {
      await workspace.remove();
      throw error;
    }
  }
}

/** `/models/Qwen2.5-0.5B-Q4_K_M.gguf` → `Qwen2.5-0.5B-Q4_K_M`. */
export function modelIdOf(path: string): string {
  return path.replace(/^.*\//, '').replace(/\.gguf$/i, '');
}
