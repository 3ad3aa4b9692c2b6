/** The model servers of `models.toml`, as the runtime's upstream. */
import { dirname } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { type Clock, systemClock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { RoutedUpstream, RouteTable } from '../../bridge/routing/route-table.ts';
import type { UpstreamTarget } from '../../bridge/upstream/address.ts';
import { UpstreamClient } from '../../bridge/upstream/client.ts';
import { FileWatch } from './file-watch.ts';
import { KeyCommand } from './key-command.ts';
import type { ConfiguredModels, ConfiguredServer } from './models-file.ts';
import { probeList } from './probe.ts';

const ASK_MS_MAX = 1000;

export interface ServersOptions {
  readonly log: Log;
  readonly clock?: Clock;
  /** Reads the file again, for when it or a file that it names has changed. Null: it is not there any more. */
  readonly reread: () => ConfiguredModels | null;
}

/** A server that does not answer now is only logged: it may be started later. */
export async function openServers(first: ConfiguredModels, options: ServersOptions) {
  const { log, reread, clock = systemClock } = options;
  let file = first;
  const routed = (server: ConfiguredServer): RoutedUpstream => ({
    ...server,
    target: targetOf(server, { path: first.path, log, clock }),
  });
  let upstreams = file.upstreams.map(routed);
  // What changes is what it answers.
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
  const offered = await names();
  let fault = '';
  const watch = new FileWatch(file.files, clock, () => {
    try {
      const changed = reread();
      if (changed === null) throw new Error(`${file.path} does not exist`);
      const before = new Map(file.upstreams.map((one, index) => [one.name, { one, at: index }]));
      const old = upstreams;
      upstreams = changed.upstreams.map((one) => {
        const known = before.get(one.name);
        const same = known && isDeepStrictEqual(known.one, one) ? old[known.at] : undefined;
        return same ?? routed(one);
      });
      file = changed;
      watch.replace(file.files);
      fault = '';
      log.info('models.toml was read again', { servers: describe(file), models: file.models.size });
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
  return {
    get description() {
      return describe(file);
    },
    needsModel: false,
    get defaultModel() {
      return file.defaultModel ?? firstModel(file) ?? offered[0] ?? null;
    },
    models: offered,
    offered: names,
    source: () => table,
    warm: () => Promise.resolve(),
    close: () => Promise.resolve(watch.close()),
  };
}

/** Where to send requests to a server, with its key. @throws BridgeError as `KeyCommand.key` */
export function targetOf(
  { name, key, target }: Pick<ConfiguredServer, 'name' | 'key' | 'target'>,
  place: { readonly path: string; readonly log: Log; readonly clock: Clock },
): () => Promise<UpstreamTarget> {
  if (key === null || !('command' in key)) return () => Promise.resolve(target);
  const { log, clock, path } = place;
  const command = new KeyCommand({
    argv: key.command,
    upstream: name,
    dir: dirname(path),
    clock,
    log,
  });
  return async () => ({ ...target, apiKey: await command.key() });
}

const describe = ({ upstreams }: ConfiguredModels): string =>
  upstreams
    .map(({ name, url, isHosted }) => `${name} (${isHosted ? 'hosted, ' : ''}${url})`)
    .join(', ');

/** The first model that every sandbox may use; without one, the first. */
function firstModel({ upstreams, models }: ConfiguredModels): string | null {
  const local = new Set(upstreams.filter((one) => !one.isHosted).map(({ name }) => name));
  const first = [...models].find(([, { routes }]) => routes.some((one) => local.has(one.upstream)));
  return (first ?? [...models][0])?.[0] ?? null;
}

async function discovered(
  { name, discover, target }: RoutedUpstream,
  log: Log,
): Promise<readonly string[]> {
  if (!discover) return [];
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
