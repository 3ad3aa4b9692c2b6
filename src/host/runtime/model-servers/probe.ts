/** Probes model servers: their models, their APIs, and the time to a first token (I/O). */
import type { IncomingMessage } from 'node:http';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { ignore, tryOr } from '../../../base/ignore.ts';
import { timeLimit } from '../../../base/time-limit.ts';
import { isJsonObject, parseObject } from '../../../inference/bridge/json-body.ts';
import { BRIDGE_LIMITS } from '../../../inference/bridge/limits.ts';
import { eventData, SseSplitter } from '../../../inference/bridge/sse.ts';
import type { UpstreamTarget } from '../../../inference/bridge/upstream/address.ts';
import { fetchModels, readBounded } from '../../../inference/bridge/upstream/catalog.ts';
import type { UpstreamClient } from '../../../inference/bridge/upstream/client.ts';

export interface Prober {
  readonly client: UpstreamClient;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

export interface ListProbe {
  /** `null` if the server did not answer with a list. */
  readonly models: readonly string[] | null;
  /** From the request to the whole list; `null` as above. */
  readonly tookMs: number | null;
  /** Why there is no list; `null` if there is one. */
  readonly error: string | null;
}

const LIST_MS_MAX = 5_000;

export async function probeList(
  { client, clock }: Omit<Prober, 'signal'>,
  target: UpstreamTarget,
  msMax = LIST_MS_MAX,
): Promise<ListProbe> {
  const begunAtMs = clock.now();
  try {
    const list = await fetchModels(client, clock, target, BRIDGE_LIMITS, msMax);
    return { models: list.map(({ id }) => id), tookMs: clock.now() - begunAtMs, error: null };
  } catch (error) {
    return { models: null, tookMs: null, error: describeError(error) };
  }
}

/** APIs by their path below `/v1`. */
const DIALECTS = {
  chat: '/chat/completions',
  text: '/completions',
  responses: '/responses',
  messages: '/messages',
  embeddings: '/embeddings',
} as const;
export type SpokenDialect = keyof typeof DIALECTS;

/** Statuses of a server for a path that it does not have. */
const ABSENT: ReadonlySet<number> = new Set([404, 405, 501]);
const ERROR_BYTES_MAX = 4_096;
const DIALECT_MS_MAX = 10_000;

/** The APIs whose paths a server has. It gets an empty object, which costs no token. */
export async function probeDialects(prober: Prober, target: UpstreamTarget): Promise<readonly SpokenDialect[]> {
  const found: SpokenDialect[] = [];
  for (const name of Object.keys(DIALECTS) as SpokenDialect[]) {
    using limit = timeLimit(prober.clock, DIALECT_MS_MAX, prober.signal);
    try {
      const response = await post(prober, target, DIALECTS[name], {}, limit.signal);
      if (await hasPath(response)) found.push(name);
    } catch (error) {
      ignore(error, 'the list of models or the first token tells why');
      break;
    }
  }
  return found;
}

/** Ollama answers 404 if a request names no model, as for a path that it does not have. */
async function hasPath(response: IncomingMessage): Promise<boolean> {
  const { statusCode = 404 } = response;
  const body = statusCode === 404 ? await readBounded(response, ERROR_BYTES_MAX) : undefined;
  response.destroy();
  if (!ABSENT.has(statusCode)) return true;
  const error = parseObject(body?.toString('utf8') ?? '')?.['error'];
  const message = isJsonObject(error) ? error['message'] : error;
  return typeof message === 'string' && /\bmodel\b/i.test(message);
}

export interface TokenProbe {
  /** From the request to the first text of the answer; `null` if there was none. */
  readonly firstTokenMs: number | null;
  readonly error: string | null;
}

/** A model may have to be loaded first. */
const TOKEN_MS_MAX = 120_000;
const ANSWER_BYTES_MAX = 1 << 20;
/** The API requires a limit, and reasoning before the text counts. */
const ANTHROPIC_TOKENS_MAX = 1024;

/** Requests a short answer from a model, and stops at its first text. */
export async function probeToken(prober: Prober, target: UpstreamTarget, model: string): Promise<TokenProbe> {
  const { clock } = prober;
  using limit = timeLimit(clock, TOKEN_MS_MAX, prober.signal);
  const begunAtMs = clock.now();
  try {
    const isAnthropic = target.api === 'anthropic';
    const messages = [{ role: 'user', content: 'Say: ok' }];
    const limits = isAnthropic ? { max_tokens: ANTHROPIC_TOKENS_MAX } : {};
    const body = { model, messages, stream: true, ...limits };
    const path = isAnthropic ? DIALECTS.messages : DIALECTS.chat;
    const response = await post(prober, target, path, body, limit.signal);
    try {
      const { statusCode = 0 } = response;
      if (statusCode !== 200) return failed(statusText(statusCode));
      if (await hasText(response)) return { firstTokenMs: clock.now() - begunAtMs, error: null };
      return failed('it ends its answer without any text');
    } finally {
      response.destroy();
    }
  } catch (error) {
    return failed(describeError(error));
  }
}

const failed = (error: string): TokenProbe => ({ firstTokenMs: null, error });

/** Omits the server's own words, which may quote the key. */
function statusText(status: number): string {
  if (status === 401 || status === 403) return `status ${status}: it denies the key, or lacks one`;
  if (status === 404) return 'status 404: it has no such model, or speaks another API';
  return `status ${status}`;
}

async function hasText(response: IncomingMessage): Promise<boolean> {
  const splitter = new SseSplitter(ANSWER_BYTES_MAX);
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > ANSWER_BYTES_MAX) return false;
    for (const { bytes: event } of splitter.push(chunk)) {
      if (isText(eventData(event) ?? '')) return true;
    }
  }
  return false;
}

/** Whether an event has text or reasoning. */
function isText(data: string): boolean {
  const value: unknown = tryOr(undefined, '[DONE], or no event of a model server', () => JSON.parse(data));
  if (!isJsonObject(value)) return false;
  const { choices } = value;
  const choice: unknown = Array.isArray(choices) ? choices[0] : undefined;
  // Anthropic's API has the delta in the event itself.
  const delta = isJsonObject(choice) ? choice['delta'] : value['delta'];
  if (!isJsonObject(delta)) return false;
  const names = ['content', 'reasoning_content', 'reasoning', 'text', 'thinking'];
  const texts = names.map((name) => delta[name]);
  return texts.some((text) => typeof text === 'string' && text !== '');
}

function post(
  { client }: Prober,
  target: UpstreamTarget,
  path: string,
  body: object,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  return client.send({
    target,
    method: 'POST',
    path,
    headers: { accept: 'text/event-stream, application/json' },
    body: [Buffer.from(JSON.stringify(body))],
    limits: BRIDGE_LIMITS,
    signal,
  });
}
