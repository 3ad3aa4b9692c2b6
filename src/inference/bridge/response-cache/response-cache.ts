/**
 * Reuses answers of model servers for exactly equal requests of the same tenant, if the sandbox's owner enables it.
 * Answers are kept as the server sent them, so each is relayed like a new one: counted, masked, translated.
 *
 *     a route of the request has the answer ─► hit: neither queue nor budget nor model server
 *     none has                              ─► miss: a draft records the answer as it passes, and keeps it if it is whole
 */
import { createHash } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import type { Clock } from '../../../base/clock.ts';
import { Counter, gauge, type Metric } from '../../../base/metrics.ts';
import { KIB, MIB } from '../../../base/units.ts';
import { parseObject } from '../json-body.ts';
import type { BridgePolicy } from '../policy.ts';
import type { Asked } from '../request-form.ts';
import type { Route, RoutedUpstream } from '../routing/route-table.ts';
import type { Plan } from '../routing/router.ts';
import { PlayedAnswer } from '../tape/played-answer.ts';
import { ShownAnswer } from '../tape/shown-answer.ts';
import type { UpstreamAnswer } from '../tape/tape.ts';
import type { UpstreamApi, UpstreamTarget } from '../upstream/address.ts';
import { type AnswerDraft, AnswerStore, type CacheScope } from './answer-store.ts';

/** Memory in bytes for answers of all tenants. */
export const RESPONSE_CACHE_BYTES = 256 * MIB;
export const CACHED_ANSWER_BYTES_MAX = 4 * MIB;

/** Headers of the guest that may change the model server's answer. */
const ANSWER_HEADERS = ['accept', 'anthropic-beta', 'anthropic-version', 'openai-beta'] as const;

/** A longer document is no error. */
const ERROR_BYTES_MAX = 16 * KIB;

export interface CachedAnswer {
  readonly api: UpstreamApi;
  /** The upstream's name for the model. */
  readonly model: string;
  /** Name in `models.toml`. */
  readonly upstream: string;
  /** Guests see the name in errors, but never the key. */
  readonly target: Pick<UpstreamTarget, 'name' | 'apiKey'>;
  readonly status: number;
  readonly contentType: string | undefined;
  readonly body: Buffer;
}

export interface CacheUse {
  readonly hit: CachedAnswer | undefined;
  /** Begins a draft when an attempt is sent. Undefined if its answer would come from a route that was not looked up. */
  draft(target: UpstreamTarget, route: Route): CacheDraft | undefined;
}

export interface CacheDraft {
  show(answer: UpstreamAnswer): UpstreamAnswer;
  /** Call when the exchange has ended. @param isWhole true if the answer was passed on correctly and whole */
  end(isWhole: boolean): void;
}

export interface CacheRequest {
  readonly scope: CacheScope;
  readonly policy: BridgePolicy;
  readonly asked: Pick<Asked, 'exact' | 'forms' | 'plan'>;
  readonly headers: IncomingHttpHeaders;
  readonly upstreamOf: (name: string) => RoutedUpstream | undefined;
}

/** Shows guests whose sandbox has the cache whether it was hit. */
export const CACHE_HEADER = 'x-neurovisor-cache';

/** Undefined if the request does not use the cache, as always with a cassette, which has an answer for each request. */
export function cacheUse(
  context: {
    readonly cache: ResponseCache;
    readonly tape: unknown;
    readonly policy: BridgePolicy;
    readonly sandboxId: string;
    readonly cacheScopeOf: (sandboxId: string) => CacheScope;
    readonly dispatcher: { upstreamOf(name: string): RoutedUpstream | undefined };
  },
  asked: CacheRequest['asked'],
  headers: IncomingHttpHeaders,
): CacheUse | undefined {
  const { cache, tape, policy, sandboxId, cacheScopeOf, dispatcher } = context;
  if (tape !== undefined || policy.cache === undefined) return undefined;
  const upstreamOf = (name: string) => dispatcher.upstreamOf(name);
  return cache.use({ scope: cacheScopeOf(sandboxId), policy, asked, headers, upstreamOf });
}

export class ResponseCache {
  readonly #store: AnswerStore<CachedAnswer>;
  /** A `models.toml` server that has changed is a new object. */
  readonly #numbers = new WeakMap<RoutedUpstream, number>();
  #count = 0;
  readonly #requests = new Counter(
    'neurovisor_model_cache_requests_total',
    'Requests that the cache of answers may answer: hit, miss.',
    ['result'],
  );

  constructor(clock: Clock, bytesMax = RESPONSE_CACHE_BYTES) {
    this.#store = new AnswerStore(clock, bytesMax);
    for (const result of ['hit', 'miss']) this.#requests.add({ result }, 0);
  }

  use({ scope, policy, asked, headers, upstreamOf }: CacheRequest): CacheUse | undefined {
    const { exact, forms, plan } = asked;
    const { cache } = policy;
    if (cache === undefined || exact === undefined) return undefined;
    const { ttlMs } = cache;
    const shaping = ANSWER_HEADERS.map((name) => headers[name] ?? null);
    const keyOf = (upstream: RoutedUpstream, target: UpstreamTarget | undefined, route: Route) =>
      digest([this.#identityOf(upstream, target), route.model, exact, shaping]);
    const keys = new Set<string>();
    let hit: CachedAnswer | undefined;
    // Only routes of the first group: fallbacks must not answer while the requested model can.
    for (const route of plan.groups[0] ?? []) {
      const upstream = plannedUpstream(plan, route, upstreamOf);
      if (upstream === undefined) continue;
      const key = keyOf(upstream, plan.target, route);
      keys.add(key);
      hit ??= this.#store.get(scope, key, ttlMs);
    }
    if (hit !== undefined && forms[hit.api] === undefined) hit = undefined;
    this.#requests.add({ result: hit === undefined ? 'miss' : 'hit' });
    return {
      hit,
      draft: (target, route) => {
        const upstream = upstreamOf(route.upstream);
        if (upstream === undefined) return undefined;
        const key = keyOf(upstream, plan.target === undefined ? undefined : target, route);
        if (!keys.has(key)) return undefined;
        const { api = 'openai' } = target;
        const from = { api, model: route.model, upstream: route.upstream, target };
        const begin = () => this.#store.begin(scope);
        return new Draft(begin, (draft, answer) => draft.keep(key, { ...from, ...answer }, ttlMs));
      },
    };
  }

  metrics(): readonly Metric[] {
    return [
      this.#requests,
      gauge('neurovisor_model_cache_bytes', 'Memory of the cache of answers.', () => this.#store.bytes),
      gauge('neurovisor_model_cache_answers', 'Answers in the cache of answers.', () => this.#store.count),
    ];
  }

  close(): void {
    this.#store.close();
  }

  /** @param target of the only upstream, whose object stays when another server replaces it */
  #identityOf(upstream: RoutedUpstream, target: UpstreamTarget | undefined): unknown {
    let number = this.#numbers.get(upstream);
    if (number === undefined) {
      this.#count += 1;
      number = this.#count;
      this.#numbers.set(upstream, number);
    }
    if (target === undefined) return number;
    const { apiKey: _changes, ...place } = target;
    return [number, place];
  }
}

export function playCached({ status, contentType, body }: CachedAnswer): UpstreamAnswer {
  return new PlayedAnswer({ status, contentType, chunks: [body].values(), isCut: false });
}

class Draft implements CacheDraft {
  readonly #begin: () => AnswerDraft<CachedAnswer>;
  readonly #keep: (
    draft: AnswerDraft<CachedAnswer>,
    answer: Pick<CachedAnswer, 'status' | 'contentType' | 'body'>,
  ) => void;
  readonly #chunks: Buffer[] = [];
  #bytes = 0;
  #draft: AnswerDraft<CachedAnswer> | undefined;
  #answer: UpstreamAnswer | undefined;

  constructor(
    begin: () => AnswerDraft<CachedAnswer>,
    keep: (draft: AnswerDraft<CachedAnswer>, answer: Pick<CachedAnswer, 'status' | 'contentType' | 'body'>) => void,
  ) {
    this.#begin = begin;
    this.#keep = keep;
  }

  show(answer: UpstreamAnswer): UpstreamAnswer {
    const status = answer.statusCode ?? 0;
    if (status < 200 || status >= 300) return answer;
    this.#answer = answer;
    const draft = this.#begin();
    this.#draft = draft;
    return new ShownAnswer(answer, (chunk) => {
      this.#bytes += chunk.length;
      if (this.#bytes <= CACHED_ANSWER_BYTES_MAX && draft.grow(chunk.length)) {
        // A chunk is often a part of a larger buffer, which a reference would keep.
        this.#chunks.push(Buffer.from(chunk));
        return;
      }
      this.#chunks.length = 0;
      draft.drop();
    });
  }

  end(isWhole: boolean): void {
    const draft = this.#draft;
    if (draft === undefined) return;
    const body = Buffer.concat(this.#chunks);
    this.#chunks.length = 0;
    const { statusCode: status = 0, headers = {}, complete = false } = this.#answer ?? {};
    const isGood = isWhole && complete && hasLength(headers) && !isError(body);
    if (isGood && body.length > 0) this.#keep(draft, { status, contentType: headers['content-type'], body });
    draft.drop();
  }
}

/** Without a length or chunked encoding, an answer whose server died looks whole. */
const hasLength = (headers: IncomingHttpHeaders): boolean =>
  (headers['content-length'] ?? headers['transfer-encoding']) !== undefined;

/** Some servers report an error with status 200. */
function isError(body: Buffer): boolean {
  if (body.length > ERROR_BYTES_MAX) return false;
  const { error, type, object } = parseObject(body.toString('utf8')) ?? {};
  return error != null || type === 'error' || object === 'error';
}

function plannedUpstream(
  { upstreams }: Plan,
  { upstream: name }: Route,
  upstreamOf: (name: string) => RoutedUpstream | undefined,
): RoutedUpstream | undefined {
  return upstreams === undefined ? upstreamOf(name) : upstreams.find((one) => one.name === name);
}

const digest = (value: unknown): string => createHash('sha256').update(JSON.stringify(value)).digest('hex');
