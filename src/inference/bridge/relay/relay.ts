/**
 * Forwards the upstream's answer to the guest, buffering only an incomplete event (io). Changes only what reveals the
 * state of the upstream's cache.
 */
import type { Clock } from '../../../base/clock.ts';
import type { Refusal } from '../../../base/http/refusal.ts';
import { CacheHintMask, eventLength } from '../cache-hints.ts';
import type { AnswerTranslation } from '../dialect/dialect.ts';
import { BridgeError } from '../errors.ts';
import { responseHeaders } from '../headers.ts';
import { isJsonObject, parseObject } from '../json-body.ts';
import { KeyMask } from '../key-mask.ts';
import type { BridgeLimits } from '../limits.ts';
import type { Reply } from '../reply.ts';
import { eventData, SseSplitter } from '../sse.ts';
import type { UpstreamAnswer } from '../tape/tape.ts';
import { readBounded } from '../upstream/catalog.ts';
import type { DocumentUsage, StreamUsage } from '../usage.ts';
import { withoutKey } from '../without-key.ts';

export interface RelayContext {
  readonly clock: Clock;
  readonly limits: BridgeLimits;
  readonly signal: AbortSignal;
  /** Set by the owner of the host; otherwise answers reveal no cache hits. */
  readonly showCacheHits: boolean;
  /** The host's key, which no guest or log may get. */
  readonly apiKey: string | undefined;
  onData(): void;
  isSlotWanted(): boolean;
  onTokens(events: number): void;
  cancel(reason: BridgeError): void;
}

export function isEventStream(response: UpstreamAnswer): boolean {
  return /^text\/event-stream\b/i.test(response.headers['content-type'] ?? '');
}

/**
 * Forwards a stream of events, and counts it in `usage`, which is right even if the stream breaks.
 * @throws BridgeError `upstream_died`, or the signal's reason
 */
export async function relayStream(
  response: UpstreamAnswer,
  reply: Reply,
  usage: StreamUsage,
  context: RelayContext,
): Promise<void> {
  requirePlain(response);
  const splitter = new SseSplitter(context.limits.eventBytesMax);
  const mask = new CacheHintMask();
  const masked = (bytes: Buffer, endsEvent: boolean): Buffer => {
    if (context.showCacheHits) return bytes;
    const length = eventLength(bytes);
    const data = bytes.subarray(0, length);
    const safe = mask.mask(data);
    if (endsEvent) mask.reset();
    return safe === data ? bytes : Buffer.concat([safe, bytes.subarray(length)]);
  };
  reply.startStream(responseHeaders(response.headers), () => splitter.atBoundary);
  await pump(response, reply, context, (chunk) => {
    let open = true;
    const before = usage.chunks;
    const pieces = splitter.push(chunk);
    for (const [i, piece] of pieces.entries()) {
      // Only the last piece of a chunk can be an incomplete event.
      const bytes = masked(piece.bytes, i + 1 < pieces.length || splitter.atBoundary);
      if (usage.accept(piece)) open = reply.write(bytes);
    }
    context.onTokens(usage.chunks - before);
    return open;
  });
  const rest = splitter.rest();
  // Only the empty line after the last event may be missing.
  const wanted = isWholeEvent(rest) && usage.accept({ bytes: rest, kind: 'event' });
  // Without chunked encoding, a killed server looks like one that has finished.
  if (!usage.finished && !usage.failed) throw died('the stream ended without a finish reason');
  if (!splitter.atBoundary) throw died('the stream ended within an event');
  if (wanted) reply.write(Buffer.concat([masked(rest, true), Buffer.from('\n\n')]));
  reply.end();
}

function isWholeEvent(bytes: Buffer): boolean {
  const data = eventData(bytes)?.trim() ?? '';
  return data === '[DONE]' || parseObject(data) !== undefined;
}

/**
 * Forwards any other successful answer. @param isBytes true for data that is not text, in which nothing is masked.
 * @throws as `relayStream`
 */
export async function relayDocument(
  response: UpstreamAnswer,
  reply: Reply,
  usage: DocumentUsage,
  context: RelayContext,
  isBytes = false,
): Promise<void> {
  requireDocument(reply);
  requirePlain(response);
  const mask = new CacheHintMask();
  const { 'content-length': length, ...headers } = responseHeaders(response.headers);
  // Masking makes it shorter.
  const sized = context.showCacheHits && length !== undefined ? { 'content-length': length } : {};
  reply.start(response.statusCode ?? 200, { ...headers, ...sized });
  await pump(response, reply, context, (chunk) => {
    usage.push(chunk);
    return reply.write(context.showCacheHits || isBytes ? chunk : mask.mask(chunk));
  });
  reply.end();
}

/** @throws BridgeError `upstream_protocol` if a stream has begun */
export function requireDocument(reply: Reply): void {
  if (!reply.streaming) return;
  const message = 'the answer is not a stream, although one was requested';
  throw new BridgeError('upstream_protocol', message);
}

/**
 * @throws BridgeError `upstream_protocol` for a compressed answer: the bridge requested no compression and can't read
 * it
 */
export function requirePlain(response: UpstreamAnswer): void {
  const encoding = response.headers['content-encoding'] ?? 'identity';
  if (encoding === 'identity') return;
  throw new BridgeError('upstream_protocol', `the answer is compressed: ${encoding}`);
}

/**
 * Forwards an error of the upstream, without anything private to the host.
 * @param form `translation`: error form of the guest's dialect, if that differs; `audioPath`: path of the request,
 * which most servers do not have
 */
export async function relayError(
  response: UpstreamAnswer,
  reply: Reply,
  apiKey: string | undefined,
  limits: BridgeLimits,
  form: { readonly translation: AnswerTranslation | undefined; readonly audioPath: string | undefined },
): Promise<void> {
  const { translation, audioPath } = form;
  const status = response.statusCode ?? 502;
  const raw = await readBounded(response, limits.errorBodyBytesMax);
  const own = ownRefusal(status, raw === undefined);
  const more = translation === undefined ? {} : errorHeaders(response, translation);
  if (own !== undefined) return reply.fail(own, more);
  // A server may echo the request; the guest must not learn the key.
  const text = withoutKey(raw?.toString('utf8') ?? '', apiKey);
  if (audioPath !== undefined && NO_ROUTE.includes(status) && !hasError(text)) {
    return reply.fail(notServed(audioPath, text));
  }
  if (reply.streaming || translation !== undefined) {
    return reply.fail({ status, code: 'upstream_error', message: messageOf(text, status) }, more);
  }
  const { 'content-length': _, 'content-encoding': encoding, ...headers } = responseHeaders(response.headers);
  if (encoding !== undefined && encoding !== 'identity') {
    return reply.fail({ status, code: 'upstream_error', message: messageOf('', status) });
  }
  reply.start(status, headers);
  reply.end(Buffer.from(text));
}

function errorHeaders({ headers }: UpstreamAnswer, translation: AnswerTranslation): Readonly<Record<string, string>> {
  const names = ['retry-after', 'retry-after-ms', 'x-should-retry'];
  const retry = Object.entries(responseHeaders(headers)).filter(([name]) => names.includes(name));
  return { ...Object.fromEntries(retry), ...translation.answerHeaders(headers) };
}

/** The bridge's own error, for answers that would mislead the guest. */
function ownRefusal(status: number, tooLarge: boolean): Refusal | undefined {
  if (status < 400) {
    const message = `The model server answered with the unexpected status ${status}.`;
    return { status: 502, code: 'upstream_protocol', message };
  }
  if (tooLarge) return { status, code: 'upstream_error', message: messageOf('', status) };
  return undefined;
}

const NO_ROUTE: readonly number[] = [404, 405, 501];

const hasError = (text: string): boolean => isJsonObject(parseObject(text)?.['error']);

/** FastAPI's message for a missing route. */
const NO_ROUTE_DETAIL = /^(?:not found|method not allowed)$/i;

function notServed(path: string, text: string): Refusal {
  const detail = parseObject(text)?.['detail'];
  if (typeof detail === 'string' && !NO_ROUTE_DETAIL.test(detail)) {
    // Speaches reports a missing model this way.
    const message = detail.slice(0, MESSAGE_CHARACTERS_MAX).toWellFormed();
    return { status: 404, code: 'upstream_error', message };
  }
  const message = `The model's server has no ${path}. Ask for a model whose server has it, for example vLLM or speaches.`;
  return { status: 404, code: 'audio_not_served', message };
}

const MESSAGE_CHARACTERS_MAX = 1000;

/**
 * The part of an upstream's message that the guest and the log may have. Removes the key before cutting, since a
 * part of it would stay otherwise.
 */
export function publicMessage(text: string, apiKey: string | undefined): string {
  return withoutKey(text, apiKey).slice(0, MESSAGE_CHARACTERS_MAX).toWellFormed();
}

function messageOf(text: string, status: number): string {
  const fallback = `The model server answered with status ${status}.`;
  try {
    const value: unknown = JSON.parse(text);
    const error = isJsonObject(value) ? (value['error'] ?? value['message']) : undefined;
    const message = isJsonObject(error) ? error['message'] : error;
    return typeof message === 'string' ? message.slice(0, MESSAGE_CHARACTERS_MAX) : fallback;
  } catch (error) {
    if (error instanceof SyntaxError) return fallback;
    throw error;
  }
}

/** Other requests may begin to wait for the slot at any time. */
const STALL_CHECKED_MS = 1000;

/**
 * Reads to the end at the guest's pace. `onChunk` returns false to wait for the guest; an error that it throws ends the
 * answer.
 * @param isDone returns true if nothing after the last chunk matters
 */
export function pump(
  response: UpstreamAnswer,
  reply: Reply,
  context: RelayContext,
  onChunk: (chunk: Buffer) => boolean,
  isDone: () => boolean = () => false,
): Promise<void> {
  const { clock, limits, signal } = context;
  const mask = new KeyMask(context.apiKey);
  return new Promise((resolve, reject) => {
    let stopStall: () => void = () => undefined;
    let hasFailed = false;
    const fail = (cause?: unknown): void => {
      stopStall();
      reject(signal.aborted ? signal.reason : died('the connection broke', cause));
    };
    response.on('data', (chunk: Buffer) => {
      // A destroyed stream still emits what it has buffered.
      if (hasFailed || isDone()) return;
      context.onData();
      let open: boolean;
      try {
        // A server may echo a request in an error of its stream.
        open = onChunk(mask.push(chunk));
      } catch (error) {
        hasFailed = true;
        reject(error);
        response.destroy();
        return;
      }
      if (isDone()) resolve();
      if (open || isDone() || response.isPaused()) return;
      response.pause();
      const stalledAtMs = clock.now();
      const check = (): void => {
        const { stallTimeoutMs, slotStallTimeoutMs } = limits;
        const mostMs = context.isSlotWanted() ? Math.min(slotStallTimeoutMs, stallTimeoutMs) : stallTimeoutMs;
        const leftMs = mostMs - (clock.now() - stalledAtMs);
        if (leftMs > 0) stopStall = clock.after(Math.min(leftMs, STALL_CHECKED_MS), check);
        else context.cancel(new BridgeError('cancelled', 'the guest does not read its answer'));
      };
      check();
      reply.onDrain(() => {
        stopStall();
        context.onData();
        response.resume();
      });
    });
    response.once('end', () => {
      if (hasFailed) return;
      if (!response.complete) return fail();
      try {
        const rest = mask.rest();
        if (rest.length > 0 && !isDone()) onChunk(rest);
        resolve();
      } catch (error) {
        reject(error);
      }
    });
    response.once('error', fail);
    response.once('close', () => {
      // After a whole answer nothing waits for the error, so its stack trace would be wasted.
      if (!response.readableEnded) fail();
    });
  });
}

export function died(why: string, cause?: unknown): BridgeError {
  return new BridgeError('upstream_died', why, cause === undefined ? {} : { cause });
}

/** Reads a whole answer of at most `answerBytesMax`. @throws BridgeError `upstream_protocol`, or as `pump` */
export async function readWhole(
  response: UpstreamAnswer,
  reply: Reply,
  context: RelayContext,
  onChunk: (chunk: Buffer) => void,
): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  await pump(response, reply, context, (chunk) => {
    onChunk(chunk);
    bytes += chunk.length;
    if (bytes > context.limits.answerBytesMax) throw tooLong();
    pieces.push(chunk);
    return true;
  });
  return Buffer.concat(pieces);
}

/** Gives the upstream time to end its answer, so that its connection can be reused. Remaining data is dropped. */
export function drain(response: UpstreamAnswer, { clock, limits }: RelayContext): Promise<void> {
  if (response.readableEnded || response.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    const stop = clock.after(limits.drainTimeoutMs, resolve);
    const ended = (): void => {
      stop();
      resolve();
    };
    response.once('end', ended);
    response.once('close', ended);
  });
}

export function tooLong(): BridgeError {
  return new BridgeError('upstream_protocol', 'a part of the answer is too long');
}
