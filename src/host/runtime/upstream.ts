/**
 * Chooses the model server for guests: the configured one, else a known local one, else the built-in engine, which the
 * first request starts.
 */
import { MODEL_ID } from '../../artifacts/image/model.ts';
import type { Config } from '../../base/config.ts';
import type { Log } from '../../base/log.ts';
import type { BridgePolicy, UpstreamSource, UpstreamTarget } from '../../inference/bridge/bridge.ts';
import { endpointOf } from '../../inference/bridge/upstream/address.ts';
import { type DetectOptions, detectUpstream, USUAL_PLACES } from '../../inference/bridge/upstream/detect.ts';
import { describeOwners, isTrustedOwner, listenerOwners } from '../../inference/bridge/upstream/listener-owner.ts';
import type { ModelPolicy } from '../../sandbox/contract/model-policy.ts';
import { RuntimeError } from './errors.ts';
import { EngineServer } from './model-servers/engine-server.ts';
import { readModelsFile } from './model-servers/models-file.ts';
import { openServers } from './model-servers/servers.ts';
import { stemOf } from './pulled-models/choose.ts';
import type { Model } from './setup.ts';

export interface Upstream {
  /** For example `Ollama at 127.0.0.1:11434`. */
  readonly description: string;
  /** True if set-up must fetch the small model. */
  readonly needsModel: boolean;
  /** The default model of scripts; `null` if the server lists none. */
  readonly defaultModel: string | null;
  /** Names of its models; `null` for the engine, which has the one that it was given. */
  readonly models: readonly string[] | null;
  /** Asks the server for the current names of its models; `null` if it does not list them. */
  offered(): Promise<readonly string[] | null>;
  /** Source for the bridge. @param model the engine's model, which the first request waits for */
  source(model: Promise<Model | null>): UpstreamSource;
  /** Starts what the first request would start. */
  warm(model: Promise<Model | null>): Promise<void>;
  close(): Promise<void>;
}

export interface UpstreamOptions {
  readonly config: Config;
  readonly runDir: string;
  readonly cacheDir: string;
  readonly modelPath: string | undefined;
  readonly log: Log;
  /** Default: the default addresses of common local servers, and the kernel's table of sockets. */
  readonly detection?: Pick<DetectOptions, 'places' | 'ownersOf'>;
}

/** Timeout of `host` for its model server. */
const ASK_MS_MAX = 1000;

/**
 * @throws RuntimeError `upstream_unreachable` if the configured server does not answer
 * @throws BridgeError `models_file_invalid`
 */
export async function chooseUpstream(options: UpstreamOptions): Promise<Upstream> {
  const { config, modelPath } = options;
  if (modelPath !== undefined || config.upstream === 'engine') return engineUpstream(options);
  const file = readModelsFile(config);
  if (file !== null) return openServers(file, { ...options, reread: () => readModelsFile(config) });
  if (config.upstream === 'auto') return detectedUpstream(options);
  const explicit = config.upstream;
  const key = config.upstreamKey === null ? {} : { apiKey: config.upstreamKey };
  const found = await detectUpstream({ explicit, ...key });
  if (found !== null) {
    return serverUpstream(withSlots(found, config), async () => {
      return (await detectUpstream({ explicit, ...key, timeoutMs: ASK_MS_MAX }))?.models;
    });
  }
  throw new RuntimeError('upstream_unreachable', `no OpenAI-compatible server answers at ${explicit}`, {
    remedy: 'start it, correct NEUROVISOR_UPSTREAM, or unset it to use the built-in engine',
  });
}

/** A server on a default port, which never gets the key; else the engine. */
async function detectedUpstream(options: UpstreamOptions): Promise<Upstream> {
  const { detection = {}, log } = options;
  const detected = await detectUpstream({ ...detection, log });
  if (detected === null) return engineUpstream(options);
  const found = withSlots(detected, options.config);
  const { places = USUAL_PLACES } = detection;
  // The same place again, checking its owner: another process may have taken the port.
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

/** @param ask returns the current models; undefined without an answer */
function serverUpstream(target: UpstreamTarget, ask: () => Promise<readonly string[] | null | undefined>): Upstream {
  const models = target.models ?? null;
  return {
    description: target.owner === undefined ? target.name : `${target.name}, run by ${target.owner}`,
    needsModel: false,
    defaultModel: target.models?.[0] ?? null,
    models,
    offered: async () => (await ask()) ?? models,
    source: () => () => Promise.resolve(target),
    warm: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}

function engineUpstream(options: UpstreamOptions): Upstream {
  const { modelPath } = options;
  const modelId = modelPath === undefined ? MODEL_ID : modelIdOf(modelPath);
  const description = 'built-in engine';
  let fetched: Model | null = null;
  const engine = new EngineServer({
    ...options,
    name: description,
    modelId,
    modelPath: () => modelPath ?? fetched?.path ?? '',
  });
  return {
    description,
    needsModel: modelPath === undefined,
    defaultModel: modelId,
    models: null,
    offered: async () => [modelId],
    source: (model) => async () => {
      fetched = await model;
      return await engine.target();
    },
    warm: async (model) => {
      fetched = await model;
      await engine.target();
    },
    close: () => engine.stop(),
  };
}

/** `/models/Qwen2.5-0.5B-Q4_K_M.gguf` → `Qwen2.5-0.5B-Q4_K_M`; for a split model, without the part's number. */
export const modelIdOf = stemOf;

/** The bridge's policy for a sandbox: its own combined with the host's. */
export function bridgePolicy(models: ModelPolicy, config: Config): BridgePolicy {
  return {
    aliases: models.aliases,
    allowHosted: models.allowHosted,
    allowFields: [...config.allowFields, ...models.allowFields],
    showCacheHits: config.showCacheHits,
    priority: models.priority,
    budget: models.budget,
    ...(models.cache === null ? {} : { cache: models.cache }),
    ...(models.allow === null ? {} : { allowModels: models.allow }),
    ...(models.defaultModel === null ? {} : { defaultModel: models.defaultModel }),
  };
}
