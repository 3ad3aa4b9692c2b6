/** The model servers of this host and the models they serve, as `neurovisor models` shows them (I/O). */
import { type Clock, systemClock } from '../../../base/clock.ts';
import type { Config } from '../../../base/config.ts';
import { describeError } from '../../../base/errors.ts';
import { silentLog } from '../../../base/log.ts';
import { dollarPrice, type Price } from '../../../inference/bridge/budget/price.ts';
import type { KeySource } from '../../../inference/bridge/routing/models-file.ts';
import type { FallbackCause, Route } from '../../../inference/bridge/routing/route-table.ts';
import type { UpstreamApi, UpstreamTarget } from '../../../inference/bridge/upstream/address.ts';
import { UpstreamClient } from '../../../inference/bridge/upstream/client.ts';
import { probeUpstreams } from '../../../inference/bridge/upstream/detect.ts';
import { RuntimeError } from '../errors.ts';
import { type ConfiguredModels, readModelsFile } from './models-file.ts';
import {
  type ListProbe,
  type Prober,
  probeDialects,
  probeList,
  probeToken,
  type SpokenDialect,
  type TokenProbe,
} from './probe.ts';
import { targetOf } from './servers.ts';

/** An engine is not queried: its `tookMs` and `error` are `null`. */
export interface ServerOverview extends ListProbe {
  readonly name: string;
  /** As configured. */
  readonly url: string;
  readonly kind: 'local' | 'hosted';
  readonly api: UpstreamApi;
  /** Maximum concurrent requests; `null`: no limit. */
  readonly concurrency: number | null;
  /** Location of its key; `null` if it has none. */
  readonly key: string | null;
}

export interface RouteOverview extends Omit<Route, 'price'> {
  /** Dollars for a million tokens. Omitted if it costs nothing; `null` if unknown. */
  readonly price?: Price | null;
}

export interface ModelOverview {
  readonly name: string;
  readonly routes: readonly RouteOverview[];
  readonly fallback: readonly string[];
  readonly fallbackOn: readonly FallbackCause[];
}

export interface ModelsOverview {
  /** Path of `models.toml`; `null` if there is none. */
  readonly path: string | null;
  readonly defaultModel: string | null;
  readonly servers: readonly ServerOverview[];
  /** The file's models, then those that its servers list. */
  readonly models: readonly ModelOverview[];
}

export interface RouteTest extends TokenProbe {
  readonly model: string;
  readonly upstream: string;
  /** Its name at the upstream. */
  readonly upstreamModel: string;
  readonly dialects: readonly SpokenDialect[];
}

interface Server extends Omit<ServerOverview, keyof ListProbe> {
  /** `null` for an engine, which only a running NeuroVisor has. */
  readonly target: (() => Promise<UpstreamTarget>) | null;
  readonly discover: boolean;
}

interface Probed extends ListProbe {
  readonly server: Server;
  /** `null` for an engine, or without a key (see `error`). */
  readonly target: UpstreamTarget | null;
}

export interface OverviewOptions {
  readonly config: Config;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly signal: AbortSignal;
  readonly clock?: Clock;
}

/** @throws BridgeError `models_file_invalid`, `upstream_invalid` */
export async function overviewOf(options: OverviewOptions): Promise<ModelsOverview> {
  return await withProber(options, async (prober) => (await overview(options, prober)).shown);
}

/**
 * Requests one token from each route of these models, one after the other. Remote servers may charge for it.
 * @param names default: every model of the file; without one, the first of each server
 * @param onTest called with each result as it comes
 * @throws RuntimeError `model_unknown`; as `overviewOf`
 */
export async function testModels(
  options: OverviewOptions,
  names: readonly string[],
  onTest: (test: RouteTest) => void,
): Promise<readonly RouteTest[]> {
  return await withProber(options, async (prober) => {
    const { shown, probed } = await overview(options, prober);
    const known = new Map(shown.models.map((model) => [model.name, model]));
    const unknown = names.find((name) => !known.has(name));
    if (unknown !== undefined) {
      throw new RuntimeError('model_unknown', `no model server offers the model "${unknown}"`, {
        remedy: `use one of: ${[...known.keys()].join(', ')}`,
      });
    }
    const chosen = names.length > 0 ? names : usual(shown);
    const dialects = new Map<string, readonly SpokenDialect[]>();
    const tests: RouteTest[] = [];
    for (const name of chosen) {
      for (const route of known.get(name)?.routes ?? []) {
        const { upstream, model: upstreamModel } = route;
        const { target = null, error = null } = probed.find(({ server }) => server.name === upstream) ?? {};
        const spoken = dialects.get(upstream) ?? (target === null ? [] : await probeDialects(prober, target));
        dialects.set(upstream, spoken);
        const token =
          target === null
            ? { firstTokenMs: null, error: error ?? 'not asked: the first request starts the engine' }
            : await probeToken(prober, target, upstreamModel);
        options.signal.throwIfAborted();
        const test = { model: name, upstream, upstreamModel, ...token, dialects: spoken };
        tests.push(test);
        onTest(test);
      }
    }
    return tests;
  });
}

function shownRoute({ price, ...route }: Route): RouteOverview {
  return price == null ? { ...route, ...(price === null && { price }) } : { ...route, price: dollarPrice(price) };
}

/** Every model of the file, or the first that each server lists. */
function usual({ path, models, servers }: ModelsOverview): readonly string[] {
  if (path !== null && models.length > 0) return models.map(({ name }) => name);
  return servers.flatMap(({ models }) => models?.slice(0, 1) ?? []);
}

async function overview(
  { config, env }: OverviewOptions,
  prober: Prober,
): Promise<{ readonly shown: ModelsOverview; readonly probed: readonly Probed[] }> {
  const file = readModelsFile(config, env);
  const servers = file === null ? await withoutFile(config) : serversOf(file, prober);
  const probed = await Promise.all(servers.map((server) => probe(prober, server)));
  const models = new Map<string, ModelOverview>();
  for (const [name, { routes, fallback, fallbackOn }] of file?.models ?? []) {
    const shown = routes.map(shownRoute);
    models.set(name, { name, routes: shown, fallback, fallbackOn: [...fallbackOn] });
  }
  for (const { server, models: listed } of probed) {
    if (!server.discover) continue;
    for (const name of listed ?? []) {
      if (file?.models.has(name) === true) continue;
      const price = server.kind === 'hosted' ? { price: null } : {};
      const route = { upstream: server.name, model: name, weight: 1, ...price };
      const routes = [...(models.get(name)?.routes ?? []), route];
      models.set(name, { name, routes, fallback: [], fallbackOn: [] });
    }
  }
  const shown = {
    path: file?.path ?? null,
    defaultModel: file?.defaultModel ?? null,
    servers: probed.map(({ server, models, tookMs, error }) => {
      const { target: _secret, discover: _rule, ...rest } = server;
      return { ...rest, models, tookMs, error };
    }),
    models: [...models.values()],
  };
  return { shown, probed };
}

async function probe(prober: Prober, server: Server): Promise<Probed> {
  if (server.target === null) {
    return { server, target: null, models: [server.name], tookMs: null, error: null };
  }
  let target: UpstreamTarget;
  try {
    target = await server.target();
  } catch (error) {
    return { server, target: null, models: null, tookMs: null, error: describeError(error) };
  }
  return { server, target, ...(await probeList(prober, target)) };
}

function serversOf({ upstreams, path }: ConfiguredModels, { clock }: Prober): readonly Server[] {
  return upstreams.map((server) => ({
    name: server.name,
    url: server.url,
    api: server.api,
    kind: server.isHosted ? 'hosted' : 'local',
    concurrency: server.target.slots ?? null,
    key: server.key === null ? null : placeOf(server.key),
    target: server.engine === null ? targetOf(server, { path, clock, log: silentLog }) : null,
    discover: server.discover,
  }));
}

function placeOf(key: KeySource): string {
  if ('env' in key) return `env ${key.env}`;
  // Arguments may be private.
  return 'file' in key ? `file ${key.file}` : `command ${key.command[0]}`;
}

/** The server of NEUROVISOR_UPSTREAM, or the servers that a search finds, but never the engine. */
async function withoutFile(config: Config): Promise<readonly Server[]> {
  if (config.upstream === 'engine') return [];
  const isUsual = config.upstream === 'auto';
  const { upstreamKey: apiKey, upstreamSlots } = config;
  const probes = await probeUpstreams({
    ...(isUsual ? {} : { explicit: config.upstream }),
    ...(apiKey === null ? {} : { apiKey }),
  });
  return probes
    .filter(({ target }) => target !== null)
    .flatMap(({ name, target }) => {
      if (target === null) return [];
      const { baseUrl, socketPath } = target;
      const url = socketPath === undefined ? (baseUrl ?? '') : `unix:${socketPath}`;
      const key = target.apiKey === undefined ? null : 'env NEUROVISOR_UPSTREAM_KEY';
      const concurrency = upstreamSlots;
      const open = (): Promise<UpstreamTarget> => Promise.resolve(target);
      const api = 'openai';
      return [{ name, url, kind: 'local', api, concurrency, key, target: open, discover: true }] as const;
    });
}

async function withProber<T>(
  { clock = systemClock, signal }: OverviewOptions,
  run: (prober: Prober) => Promise<T>,
): Promise<T> {
  const client = new UpstreamClient(clock);
  try {
    return await run({ client, clock, signal });
  } finally {
    client.close();
  }
}
