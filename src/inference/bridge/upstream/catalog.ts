/** Model lists of upstreams, fetched on demand and cached. Concurrent callers share one fetch. */
import type { Readable } from 'node:stream';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import type { Log } from '../../../base/log.ts';
import { BridgeError } from '../errors.ts';
import { isJsonObject, parseObject } from '../json-body.ts';
import type { BridgeLimits } from '../limits.ts';
import type { ModelEntry } from '../policy.ts';
import { endpointOf, type UpstreamTarget } from './address.ts';
import type { UpstreamClient } from './client.ts';

/** Age after which a list is fetched again. */
const FRESH_MS = 30_000;
/** Shortest interval between two fetches from an upstream, whatever guests request. */
const RETRY_MS = 2_000;
/** Timeout of a fetch; a slower upstream counts as one without a list. */
const TIMEOUT_MS = 5_000;
const MODELS_MAX = 10_000;
/** More than `models.toml` may name; beyond it all are fetched again. */
const ENTRIES_MAX = 256;
/** Anthropic's API lists 20 models by default, and at most 1,000. */
const ANTHROPIC_LIST = '/models?limit=1000';

interface Entry {
  models: readonly ModelEntry[] | null;
  askedAtMs: number;
  pending: Promise<readonly ModelEntry[] | null> | undefined;
}

export class Catalog {
  readonly #client: UpstreamClient;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #limits: BridgeLimits;
  readonly #entries = new Map<string, Entry>();

  constructor(options: { client: UpstreamClient; clock: Clock; log: Log; limits: BridgeLimits }) {
    this.#client = options.client;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#limits = options.limits;
  }

  /** The cached list, else a fetched one. `null` if the upstream has no list. */
  async models(target: UpstreamTarget): Promise<readonly ModelEntry[] | null> {
    const entry = this.#entry(target);
    const ageMs = this.#clock.now() - entry.askedAtMs;
    if (entry.models === null) return ageMs < RETRY_MS ? null : this.#refresh(target, entry);
    // An old list is refreshed in the background.
    if (ageMs > FRESH_MS) void this.#refresh(target, entry);
    return entry.models;
  }

  /** Fetches the list again for a name that is not in it, unless that was done just now. */
  async refresh(target: UpstreamTarget): Promise<readonly ModelEntry[] | null> {
    const entry = this.#entry(target);
    const ageMs = this.#clock.now() - entry.askedAtMs;
    return ageMs < RETRY_MS ? entry.models : this.#refresh(target, entry);
  }

  #entry(target: UpstreamTarget): Entry {
    const place = placeOf(target);
    const known = this.#entries.get(place);
    if (known !== undefined) return known;
    if (this.#entries.size >= ENTRIES_MAX) this.#entries.clear();
    const ownedBy = target.modelOwner ?? 'upstream';
    const seed = target.models?.map((id) => ({ id, created: 0, ownedBy })) ?? null;
    const askedAtMs = this.#clock.now() - RETRY_MS;
    const entry: Entry = { models: seed, askedAtMs, pending: undefined };
    this.#entries.set(place, entry);
    return entry;
  }

  #refresh(target: UpstreamTarget, entry: Entry): Promise<readonly ModelEntry[] | null> {
    entry.pending ??= this.#fetch(target, entry);
    return entry.pending;
  }

  async #fetch(target: UpstreamTarget, entry: Entry): Promise<readonly ModelEntry[] | null> {
    try {
      entry.models = await fetchModels(this.#client, this.#clock, target, this.#limits);
    } catch (error) {
      this.#log.debug('no model list', { upstream: target.name, error: describeError(error) });
    }
    entry.askedAtMs = this.#clock.now();
    entry.pending = undefined;
    return entry.models;
  }
}

/** Equal for targets with the same list; a server's list may depend on the key and on the API. */
function placeOf(target: UpstreamTarget): string {
  const { key, prefix } = endpointOf(target);
  const { name, api, apiKey } = target;
  return JSON.stringify([key, prefix, name, api ?? 'openai', apiKey ?? null]);
}

/**
 * Fetches `GET /v1/models`.
 * @throws BridgeError if the upstream does not answer in time, or without a list of models
 */
export async function fetchModels(
  client: UpstreamClient,
  clock: Clock,
  target: UpstreamTarget,
  limits: Pick<BridgeLimits, 'connectTimeoutMs' | 'modelListBytesMax'>,
  timeoutMs = TIMEOUT_MS,
): Promise<readonly ModelEntry[]> {
  const aborter = new AbortController();
  const stop = clock.after(timeoutMs, () => {
    aborter.abort(new BridgeError('upstream_timeout', `ask ${target.name} for its models`));
  });
  try {
    const { signal } = aborter;
    const headers = { accept: 'application/json' };
    const path = target.api === 'anthropic' ? ANTHROPIC_LIST : '/models';
    const request = { target, method: 'GET', path, headers, limits, signal } as const;
    const response = await client.send(request);
    const body = await readBounded(response, limits.modelListBytesMax);
    if (response.statusCode !== 200 || body === undefined) throw notModels(target);
    const models = parseModels(body.toString('utf8'));
    if (models === undefined) throw notModels(target);
    return models;
  } finally {
    stop();
  }
}

/** The whole body; undefined if it exceeds `bytesMax`. @throws if it is truncated */
export async function readBounded(response: Readable, bytesMax: number): Promise<Buffer | undefined> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of response as AsyncIterable<Buffer>) {
    bytes += part.length;
    // Leaving the loop destroys the response.
    if (bytes > bytesMax) return undefined;
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/** The entries of a list in the form of OpenAI or Anthropic; undefined for anything else. */
export function parseModels(text: string): ModelEntry[] | undefined {
  const value = parseObject(text);
  if (value === undefined) return undefined;
  // Ollama without any model sends `data: null`.
  const data = value['data'] ?? (value['object'] === 'list' ? [] : undefined);
  if (!Array.isArray(data)) return undefined;
  const models: ModelEntry[] = [];
  for (const item of data.slice(0, MODELS_MAX)) {
    if (!isJsonObject(item) || typeof item['id'] !== 'string') return undefined;
    const { id, created, created_at: time, owned_by: owner } = item;
    models.push({
      id,
      created: Number.isSafeInteger(created) ? Number(created) : secondsOf(time),
      ownedBy: typeof owner === 'string' ? owner : 'upstream',
    });
  }
  return models;
}

function secondsOf(time: unknown): number {
  const ms = typeof time === 'string' ? Date.parse(time) : Number.NaN;
  return Number.isNaN(ms) ? 0 : Math.floor(ms / 1000);
}

function notModels(target: UpstreamTarget): BridgeError {
  return new BridgeError('upstream_protocol', `${target.name} did not answer with a model list`);
}
