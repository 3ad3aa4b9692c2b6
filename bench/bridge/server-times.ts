/** How long the scripted model server takes for a request, and what follows from it. Pure but for the clock. */

/** Times of the monotonic clock, which all threads share. */
export interface ServerTurn {
  readonly caller: string;
  readonly begunAtMs: number;
  /** Its end if its client stays. */
  readonly dueAtMs: number;
  /** `null` while it runs. */
  readonly endedAtMs: number | null;
}

/** The bridge's weights: an answer token takes as long as two prompt tokens. */
const PROMPT_TOKEN_MS = 0.5;
const ANSWER_TOKEN_MS = 1;
const CHUNK_TOKENS = 16;

/** The monotonic clock, which threads and processes share. */
export const monotonicMs = (): number => Number(process.hrtime.bigint()) / 1e6;

export interface RequestTimes {
  /** Chunks of the answer, with the time from the beginning of the request. */
  readonly chunks: readonly { readonly tokens: number; readonly atMs: number }[];
  readonly firstMs: number;
  readonly dueMs: number;
}

/** @param answerTokens at least 1 */
export function timesOf(promptTokens: number, answerTokens: number): RequestTimes {
  const promptMs = promptTokens * PROMPT_TOKEN_MS;
  const chunks = Array.from({ length: Math.ceil(answerTokens / CHUNK_TOKENS) }, (_, i) => {
    const end = Math.min(answerTokens, (i + 1) * CHUNK_TOKENS);
    return { tokens: end - i * CHUNK_TOKENS, atMs: promptMs + end * ANSWER_TOKEN_MS };
  });
  const firstMs = promptMs + Math.min(answerTokens, CHUNK_TOKENS) * ANSWER_TOKEN_MS;
  return { chunks, firstMs, dueMs: promptMs + answerTokens * ANSWER_TOKEN_MS };
}

/**
 * Minimum wait of a request that arrives at `atMs`, since no running request is interrupted: until the first one ends.
 */
export function leastWaitMs(turns: readonly ServerTurn[], slots: number, atMs: number): number {
  const ends = turns
    .map(({ begunAtMs, dueAtMs, endedAtMs }) => ({ begunAtMs, endAtMs: endedAtMs ?? dueAtMs }))
    .filter(({ begunAtMs, endAtMs }) => begunAtMs <= atMs && endAtMs > atMs)
    .map(({ endAtMs }) => endAtMs);
  return ends.length < slots ? 0 : Math.min(...ends) - atMs;
}
