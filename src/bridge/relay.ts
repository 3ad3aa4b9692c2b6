/** From the upstream's answer to the guest's: bytes untouched, nothing held back but the end of an event (io). */
import type { IncomingMessage } from 'node:http';
import type { Clock } from '../base/clock.ts';
import { readBounded } from './catalog.ts';
import { BridgeError } from './errors.ts';
import { responseHeaders } from './headers.ts';
import { isJsonObject } from './json-body.ts';
import type { BridgeLimits } from './limits.ts';
import type { Refusal } from './refusal.ts';
import type { Reply } from './reply.ts';
import { SseSplitter } from './sse.ts';
import type { DocumentUsage, StreamUsage } from './usage.ts';

export interface RelayContext {
  readonly clock: Clock;
  readonly limits: BridgeLimits;
  readonly signal: AbortSignal;
  /** The upstream said something. */
  heard(): void;
  /** So many events with text came together. */
  tokens(events: number): void;
  /** Gives the request up. */
  cancel(reason: BridgeError): void;
}

export function isEventStream(response: IncomingMessage): boolean {
  return /^text\/event-stream\b/i.test(response.headers['content-type'] ?? '');
}

/**
 * Passes a stream of events on. `usage` is filled as it goes, so that it holds what was sent when the
 * stream breaks.
 * @throws BridgeError `upstream_died`, or the signal's reason
 */
export async function relayStream(
  response: IncomingMessage,
  reply: Reply,
  usage: StreamUsage,
  context: RelayContext,
): Promise<void> {
  const splitter = new SseSplitter(context.limits.eventBytesMax);
  reply.startStream(responseHeaders(response.headers), () => splitter.atBoundary);
  await pump(response, reply, context, (chunk) => {
    let open = true;
    const before = usage.chunks;
    for (const piece of splitter.push(chunk)) {
      if (usage.accept(piece)) open = reply.write(piece.bytes);
    }
    context.tokens(usage.chunks - before);
    return open;
  });
  const rest = splitter.rest();
  const wanted = usage.accept({ bytes: rest, kind: 'event' });
  // Without chunked encoding a killed server looks like one that has finished.
  if (!usage.finished && !usage.failed) throw died('its stream ended without a finish reason');
  if (wanted && rest.length > 0) reply.write(rest);
  reply.end();
}

/** Passes any other good answer on. @throws as `relayStream` */
export async function relayDocument(
  response: IncomingMessage,
  reply: Reply,
  usage: DocumentUsage,
  context: RelayContext,
): Promise<void> {
  if (reply.streaming) {
    throw new BridgeError('upstream_protocol', 'the answer is not a stream, as was asked for');
  }
  reply.start(response.statusCode ?? 200, responseHeaders(response.headers));
  await pump(response, reply, context, (chunk) => {
    usage.push(chunk);
    return reply.write(chunk);
  });
  reply.end();
}

/** Passes an error of the upstream on, without what is only the host's business. */
export async function relayError(
  response: IncomingMessage,
  reply: Reply,
  apiKey: string | undefined,
  limits: BridgeLimits,
): Promise<void> {
  const status = response.statusCode ?? 502;
  const raw = await readBounded(response, limits.errorBodyBytesMax);
  const own = ownWords(status, raw === undefined);
  if (own !== undefined) return reply.fail(own);
  let text = raw?.toString('utf8') ?? '';
  // A server may echo what it was sent; the key is not the guest's to know.
  if (apiKey !== undefined) text = text.replaceAll(apiKey, '[removed]');
  if (reply.streaming) {
    return reply.fail({ status, code: 'upstream_error', message: messageOf(text, status) });
  }
  const {
    'content-length': _,
    'content-encoding': encoding,
    ...headers
  } = responseHeaders(response.headers);
  if (encoding !== undefined && encoding !== 'identity') {
    return reply.fail({ status, code: 'upstream_error', message: messageOf('', status) });
  }
  reply.start(status, headers);
  reply.end(Buffer.from(text));
}

/** Answers that mean something else to the guest than they do to the bridge. */
function ownWords(status: number, tooLarge: boolean): Refusal | undefined {
  if (status === 401 || status === 403) {
    const message =
      'The model server does not accept the key of the host. Set NEUROVISOR_UPSTREAM_KEY on the host; ' +
      'keys inside the sandbox are not used.';
    return { status: 502, code: 'upstream_key_refused', message };
  }
  if (status < 400) {
    const message = `The model server answered with status ${status}, which is no answer.`;
    return { status: 502, code: 'upstream_protocol', message };
  }
  if (tooLarge) return { status, code: 'upstream_error', message: messageOf('', status) };
  return undefined;
}

const MESSAGE_CHARACTERS_MAX = 1000;

/** The text of an error in one of the usual shapes. */
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

/** Reads to the end, and no faster than the guest does. `onChunk` returns false to wait for it. */
function pump(
  response: IncomingMessage,
  reply: Reply,
  context: RelayContext,
  onChunk: (chunk: Buffer) => boolean,
): Promise<void> {
  const { clock, limits, signal } = context;
  return new Promise((resolve, reject) => {
    let stopStall: () => void = () => undefined;
    const fail = (cause?: unknown): void => {
      stopStall();
      reject(signal.aborted ? signal.reason : died('the connection broke', cause));
    };
    response.on('data', (chunk: Buffer) => {
      context.heard();
      if (onChunk(chunk) || response.isPaused()) return;
      response.pause();
      stopStall = clock.after(limits.stallTimeoutMs, () => {
        context.cancel(new BridgeError('cancelled', 'the guest does not read its answer'));
      });
      reply.onDrain(() => {
        stopStall();
        context.heard();
        response.resume();
      });
    });
    response.once('end', () => (response.complete ? resolve() : fail()));
    response.once('error', fail);
    response.once('close', () => fail());
  });
}

function died(why: string, cause?: unknown): BridgeError {
  return new BridgeError('upstream_died', why, cause === undefined ? {} : { cause });
}
