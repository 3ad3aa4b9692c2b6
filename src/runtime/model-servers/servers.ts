/** The model servers of `models.toml`, as the runtime's upstream. */
import { systemClock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import type { RouteTable } from '../../bridge/routing/route-table.ts';
import { UpstreamClient } from '../../bridge/upstream/client.ts';
import type { ConfiguredModels, ConfiguredServer } from './models-file.ts';
import { probeList } from './probe.ts';

const ASK_MS_MAX = 1000;

/** A server that does not answer now is only logged: it may be started later. */
export async function openServers(file: ConfiguredModels, log: Log) {
  const { upstreams, models } = file;
  const table: RouteTable = {
    upstreams: upstreams.map((one) => ({ ...one, target: () => Promise.resolve(one.target) })),
    models,
  };
  const names = async (): Promise<readonly string[]> => {
    const found = await Promise.all(upstreams.map((one) => discovered(one, log)));
    return [...new Set([...models.keys(), ...found.flat()])];
  };
  const offered = await names();
  return {
    description: upstreams
      .map(({ name, url, isHosted }) => `${name} (${isHosted ? 'hosted, ' : ''}${url})`)
      .join(', '),
    needsModel: false,
    defaultModel: file.defaultModel ?? firstModel(file) ?? offered[0] ?? null,
    models: offered,
    offered: names,
    source: () => table,
    warm: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}

/** The first model that every sandbox may use; without one, the first. */
function firstModel({ upstreams, models }: ConfiguredModels): string | null {
  const local = new Set(upstreams.filter((one) => !one.isHosted).map(({ name }) => name));
  const first = [...models].find(([, { routes }]) => routes.some((one) => local.has(one.upstream)));
  return (first ?? [...models][0])?.[0] ?? null;
}

async function discovered(
  { discover, target }: ConfiguredServer,
  log: Log,
): Promise<readonly string[]> {
  if (!discover) return [];
  const client = new UpstreamClient(systemClock);
  try {
    const { models, error } = await probeList({ client, clock: systemClock }, target, ASK_MS_MAX);
    if (error !== null)
      log.warn('a model server does not list its models', { upstream: target.name, error });
    return models ?? [];
  } finally {
    client.close();
  }
}
