/** The model servers of `models.toml`, as the runtime's upstream. */
import { dirname } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { type Clock, systemClock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Log } from '../../../base/log.ts';
import type { EngineSource } from '../../../inference/bridge/routing/models-file.ts';
import type { RoutedUpstream, RouteTable } from '../../../inference/bridge/routing/route-table.ts';
import type { UpstreamTarget } from '../../../inference/bridge/upstream/address.ts';
import { UpstreamClient } from '../../../inference/bridge/upstream/client.ts';
import { EngineError } from '../../../inference/engine/errors.ts';
import { ModelStore } from '../pulled-models/store.ts';
import type { Model } from '../setup.ts';
import { type EnginePlace, EngineServer } from './engine-server.ts';
import { Engines } from './engines.ts';
import { FileWatch } from './file-watch.ts';
import { KeyCommand } from './key-command.ts';
import type { ConfiguredModels, ConfiguredServer } from './models-file.ts';
import { probeList } from './probe.ts';

const ASK_MS_MAX = 1000;

export interface ServersOptions extends EnginePlace {
  readonly clock?: Clock;
  /** Reads the file again after it, or a file that it names, has changed. `null` if it no longer exists. */
  readonly reread: () => ConfiguredModels | null;
}

/** A server that does not answer now is only logged: it may be started later. */
export async function openServers(first: ConfiguredModels, options: ServersOptions) {
  const { log, reread, clock = systemClock } = options;
  const engines = new Engines(log);
  /** The model that set-up fetches. */
  let fetched: Model | null = null;
  const keep = async (model: Promise<Model | null>): Promise<void> => {
    fetched = await model;
  };
  const targetIn = (server: ConfiguredServer): RoutedUpstream['target'] => {
    const { name, engine } = server;
    if (engine === null) return targetOf(server, { path: first.path, log, clock });
    const made = new EngineServer({
      ...options,
      name,
      modelId: name,
      modelPath: () => pathOf(engine, fetched, options.cacheDir),
      makeRoom: (path) => engines.makeRoom(name, path),
    });
    engines.add(name, made);
    return () => made.target();
  };
  const routed = (server: ConfiguredServer): RoutedUpstream => ({
    ...server,
    target: targetIn(server),
    ...(server.engine === null ? {} : { models: [server.name] }),
  });
  let file = first;
  let upstreams = file.upstreams.map(routed);
  const change = (changed: ConfiguredModels): void => {
    if (!needsModel(first) && needsModel(changed)) {
      throw new Error('the small model of `engine = true` is fetched only at the start');
    }
    const same = changed.upstreams.map((one) => {
      const index = file.upstreams.findIndex((before) => isDeepStrictEqual(before, one));
      return upstreams[index];
    });
    for (const one of upstreams) if (!same.includes(one)) engines.retire(one.name);
    upstreams = changed.upstreams.map((one, index) => same[index] ?? routed(one));
    file = changed;
  };
  // The table object stays; only its answers change.
  const table: RouteTable = {
    get upstreams() {
      return upstreams;
    },
    get models() {
      return file.models;
    },
  };
  const names = async (): Promise<readonly string[]> => {
    const found = await Promise.all(upstreams.map((one) => discovered(one, log)));
    return [...new Set([...file.models.keys(), ...found.flat()])];
  };
  const watch = followFile({ log, reread, clock, file: () => file, change });
  // Watched by then: the lists may take a while.
  const offered = await names();
  const defaultModel = (): string | null => file.defaultModel ?? firstModel(file) ?? offered[0] ?? null;
  return {
    get description() {
      return describe(file);
    },
    needsModel: needsModel(first),
    get defaultModel() {
      return defaultModel();
    },
    models: offered,
    offered: names,
    source: (model: Promise<Model | null>) => {
      keep(model).catch((error: unknown) => ignore(error, 'reported to those who wait for the model'));
      return table;
    },
    warm: async (model: Promise<Model | null>) => {
      await keep(model);
      const asked = defaultModel() ?? '';
      const name = file.models.get(asked)?.routes[0]?.upstream ?? asked;
      const server = file.upstreams.find((one) => one.name === name);
      if (server?.engine) await upstreams.find((one) => one.name === name)?.target();
    },
    close: async () => {
      watch.close();
      await engines.close();
    },
  };
}

interface FollowedFile {
  readonly log: Log;
  readonly reread: ServersOptions['reread'];
  readonly clock: Clock;
  readonly file: () => ConfiguredModels;
  /** Takes over what was read. @throws Error it can't be taken over */
  readonly change: (changed: ConfiguredModels) => void;
}

/** Reads the file again when it, or a file that it names, has changed. */
function followFile({ log, reread, clock, file, change }: FollowedFile): FileWatch {
  let fault = '';
  const watch = new FileWatch(file().files, clock, () => {
    try {
      const changed = reread();
      if (changed === null) throw new Error(`${file().path} does not exist`);
      change(changed);
      watch.replace(file().files);
      fault = '';
      log.info('models.toml was read again', { servers: describe(file()), models: file().models.size });
      return true;
    } catch (error) {
      const reason = describeError(error);
      if (reason !== fault) {
        log.warn('models.toml has changed, but what was read before stays in force', { reason });
      }
      fault = reason;
      return false;
    }
  });
  return watch;
}

const needsModel = ({ upstreams }: ConfiguredModels): boolean =>
  upstreams.some(({ engine }) => engine?.kind === 'usual');

/** Looked up at each start: a model may have been pulled since. @throws EngineError `model_missing` */
function pathOf(engine: EngineSource, fetched: Model | null, cacheDir: string): string {
  if (engine.kind === 'file') return engine.path;
  if (engine.kind === 'usual') return fetched?.path ?? '';
  const pulled = new ModelStore(cacheDir).find(engine.model);
  if (pulled !== null) return pulled.path;
  throw new EngineError('model_missing', `no pulled model is named "${engine.model}"`, {
    remedy: 'pull it with neurovisor models pull REF --name NAME; a file is named by a path',
  });
}

/** Target of requests to a server that is no engine, with its key. @throws BridgeError as `KeyCommand.key` */
export function targetOf(
  { name, key, target }: Pick<ConfiguredServer, 'name' | 'key' | 'target'>,
  place: { readonly path: string; readonly log: Log; readonly clock: Clock },
): () => Promise<UpstreamTarget> {
  if (key === null || !('command' in key)) return () => Promise.resolve(target);
  const { log, clock, path } = place;
  const command = new KeyCommand({ argv: key.command, upstream: name, dir: dirname(path), clock, log });
  return async () => {
    const apiKey = await command.key();
    return { ...target, apiKey, onDenied: () => command.deny(apiKey) };
  };
}

const describe = ({ upstreams }: ConfiguredModels): string =>
  upstreams.map(({ name, url, isHosted }) => `${name} (${isHosted ? 'hosted, ' : ''}${url})`).join(', ');

/** The first model that every sandbox may use, or else the first. */
function firstModel({ upstreams, models }: ConfiguredModels): string | null {
  const local = new Set(upstreams.filter((one) => !one.isHosted).map(({ name }) => name));
  const first = [...models].find(([, { routes }]) => routes.some((one) => local.has(one.upstream)));
  return (first ?? [...models][0])?.[0] ?? null;
}

async function discovered(
  { name, discover, target, models: known }: RoutedUpstream,
  log: Log,
): Promise<readonly string[]> {
  if (!discover) return [];
  if (known !== undefined) return known;
  const client = new UpstreamClient(systemClock);
  try {
    const there = await target();
    const { models, error } = await probeList({ client, clock: systemClock }, there, ASK_MS_MAX);
    if (error !== null) throw new Error(error);
    return models ?? [];
  } catch (error) {
    const reason = describeError(error);
    log.warn('a model server does not list its models', { upstream: name, reason });
    return [];
  } finally {
    client.close();
  }
}
