/**
 * Finds a model server on this machine (io). A server on a default port counts only if it belongs to root or to our own
 * user, and never gets the key.
 */
import { type Clock, systemClock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { type Log, silentLog } from '../../../base/log.ts';
import { BRIDGE_LIMITS } from '../limits.ts';
import { endpointOf, parseTarget, type UpstreamTarget } from './address.ts';
import { fetchModels } from './catalog.ts';
import { UpstreamClient } from './client.ts';
import { describeOwners, isTrustedOwner, listenerOwners } from './listener-owner.ts';

export interface DetectOptions {
  /** `http(s)://host:port[/prefix]`, `host:port` or `unix:/path`. If set, nothing else is tried. */
  readonly explicit?: string;
  readonly apiKey?: string;
  /** Default: the default addresses of common local servers. */
  readonly places?: readonly Place[];
  /** User ids of the listeners at a port of 127.0.0.1. Default: read from `/proc/net/tcp` and `tcp6`. */
  readonly ownersOf?: (port: number) => Promise<readonly number[]>;
  readonly log?: Log;
  readonly clock?: Clock;
  /** Timeout for each place. Default 1000 for the default places, 5000 for an explicit one. */
  readonly timeoutMs?: number;
}

export interface Place {
  readonly name: string;
  readonly baseUrl: string;
}

export interface Probe {
  readonly name: string;
  /** `null` unless a server with the OpenAI API answered. */
  readonly target: UpstreamTarget | null;
  readonly models: readonly string[];
  readonly detail: string;
}

/** The servers' default ports, in order of preference. */
export const USUAL_PLACES: readonly Place[] = [
  { name: 'Ollama', baseUrl: 'http://127.0.0.1:11434' },
  { name: 'vLLM', baseUrl: 'http://127.0.0.1:8000' },
  { name: 'llama.cpp', baseUrl: 'http://127.0.0.1:8080' },
  { name: 'LM Studio', baseUrl: 'http://127.0.0.1:1234' },
  { name: 'SGLang', baseUrl: 'http://127.0.0.1:30000' },
];

const USUAL_TIMEOUT_MS = 1_000;
const EXPLICIT_TIMEOUT_MS = 5_000;

/**
 * The configured server, else the first default one that has a model; `null` if there is none.
 * @throws BridgeError `upstream_invalid` if `explicit` is not an address
 */
export async function detectUpstream(options: DetectOptions = {}): Promise<UpstreamTarget | null> {
  const probes = await probeUpstreams(options);
  const usable = probes.filter((probe) => probe.target !== null);
  // A default server without models is useless, but an explicit choice stands.
  const best = usable.find((probe) => probe.models.length > 0);
  return (options.explicit === undefined ? best : usable[0])?.target ?? null;
}

/** Sends `GET /v1/models` to every place at the same time. */
export async function probeUpstreams(options: DetectOptions = {}): Promise<Probe[]> {
  const { explicit, apiKey, places = USUAL_PLACES, clock = systemClock } = options;
  const usual = explicit === undefined;
  // The key belongs to the configured server, not to any process on a default port.
  const targets = usual
    ? places.map(({ name, baseUrl }) => ({ name: `${name} at ${new URL(baseUrl).host}`, baseUrl }))
    : [parseTarget(explicit, apiKey)];
  const timeoutMs = options.timeoutMs ?? (usual ? USUAL_TIMEOUT_MS : EXPLICIT_TIMEOUT_MS);
  const client = new UpstreamClient(clock);
  try {
    const ask = usual || options.timeoutMs !== undefined ? probe : probeTwice;
    const probes = await Promise.all(targets.map((target) => ask(client, clock, target, timeoutMs)));
    return usual ? await Promise.all(probes.map((each) => checkOwner(each, options))) : probes;
  } finally {
    client.close();
  }
}

/**
 * Probes a second time after a timeout: while this process is busy starting, the time may be up before it reads an
 * answer that has arrived.
 */
async function probeTwice(...args: Parameters<typeof probe>): Promise<Probe> {
  const [, clock, , timeoutMs] = args;
  const beganMs = clock.now();
  const first = await probe(...args);
  const isTimeUp = clock.now() - beganMs >= timeoutMs;
  return first.target === null && isTimeUp ? await probe(...args) : first;
}

async function probe(client: UpstreamClient, clock: Clock, target: UpstreamTarget, timeoutMs: number): Promise<Probe> {
  const { name } = target;
  try {
    const limits = { ...BRIDGE_LIMITS, connectTimeoutMs: timeoutMs };
    const list = await fetchModels(client, clock, target, limits, timeoutMs);
    const models = list.map((model) => model.id);
    const detail = models.length === 0 ? 'answers, but has no models' : models.join(', ');
    const modelOwner = list[0]?.ownedBy;
    const owned = modelOwner === undefined ? {} : { modelOwner };
    return { name, target: { ...target, models, ...owned }, models, detail };
  } catch (error) {
    return { name, target: null, models: [], detail: describeError(error) };
  }
}

/** Rejects a server that runs as another user, since it would read all prompts and write all answers. */
async function checkOwner(found: Probe, options: DetectOptions): Promise<Probe> {
  const { ownersOf = listenerOwners, log = silentLog } = options;
  const { target, name } = found;
  if (target?.baseUrl === undefined) return found;
  const { port, key } = endpointOf(target);
  const uids = await ownersOf(port);
  const owner = await describeOwners(uids);
  if (isTrustedOwner(uids)) return { ...found, target: { ...target, owner } };
  const remedy = `if you trust it, set NEUROVISOR_UPSTREAM=${key}`;
  log.warn('model server not used: it belongs to another user', { server: name, owner, remedy });
  return { ...found, target: null, detail: `belongs to ${owner}; ${remedy}` };
}
