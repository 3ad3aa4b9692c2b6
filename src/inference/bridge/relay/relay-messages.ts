/**
 * Forwards an Anthropic answer to a guest that uses the same API (io). Bytes pass unchanged, except for what reveals
 * cache hits of the upstream, and the host's key in an error.
 */
import { hideInAnswer, hideInEvent } from '../dialect/anthropic/hide-cache-hits.ts';
import type { MessageUsage } from '../dialect/anthropic/message-usage.ts';
import { errorMessage } from '../dialect/read-answer-values.ts';
import { BridgeError, broken } from '../errors.ts';
import { responseHeaders } from '../headers.ts';
import { editJson, type JsonObject, layoutOf, parseObject } from '../json-body.ts';
import type { Reply } from '../reply.ts';
import { eventData, type SsePiece, SseSplitter } from '../sse.ts';
import type { UpstreamAnswer } from '../tape/tape.ts';
import { withoutKey } from '../without-key.ts';
import {
  died,
  drain,
  publicMessage,
  pump,
  type RelayContext,
  readWhole,
  requireDocument,
  requirePlain,
  tooLong,
} from './relay.ts';

/**
 * Forwards a stream up to its last event: `message_stop`, or an error.
 * @throws BridgeError `upstream_died`, `upstream_protocol`, or the signal's reason
 */
export async function relayMessageStream(
  response: UpstreamAnswer,
  reply: Reply,
  usage: MessageUsage,
  context: RelayContext,
): Promise<void> {
  requirePlain(response);
  const splitter = new SseSplitter(context.limits.eventBytesMax);
  const hasEnded = (): boolean => usage.done || usage.failed;
  const send = ({ bytes, kind }: SsePiece): boolean => {
    if (kind === 'part') throw tooLong();
    const data = eventData(bytes);
    if (data === undefined) return reply.write(bytes);
    const event = parseObject(data);
    if (event === undefined) throw broken('an event is not a JSON object');
    usage.see(event);
    return reply.write(usage.failed ? withoutKeyOf(bytes, context) : shown(event, bytes, usage, context));
  };
  reply.startStream(responseHeaders(response.headers), () => splitter.atBoundary);
  await pump(
    response,
    reply,
    context,
    (chunk) => {
      const before = usage.chunks;
      let open = true;
      for (const piece of splitter.push(chunk)) if (!hasEnded()) open = send(piece);
      context.onTokens(usage.chunks - before);
      return open;
    },
    hasEnded,
  );
  if (!hasEnded()) {
    const rest = splitter.rest();
    // Only the empty line after the last event may be missing.
    if (parseObject(eventData(rest) ?? '') !== undefined) {
      send({ bytes: Buffer.concat([rest, Buffer.from('\n\n')]), kind: 'event' });
    }
  }
  if (!hasEnded()) throw died('the stream ended without message_stop');
  reply.end();
  await drain(response, context);
}

/** Forwards any other successful answer once it is whole. @throws as `relayMessageStream`; `upstream_failed` */
export async function relayMessage(
  response: UpstreamAnswer,
  reply: Reply,
  usage: MessageUsage,
  context: RelayContext,
): Promise<void> {
  requireDocument(reply);
  requirePlain(response);
  const bytes = await readWhole(response, reply, context, (chunk) => usage.push(chunk));
  const value = parseObject(bytes.toString('utf8'));
  if (value === undefined) throw broken('the answer is not a JSON object');
  if (value['type'] === 'error') {
    throw new BridgeError('upstream_failed', publicMessage(errorMessage(value['error']), context.apiKey));
  }
  usage.seeWhole(value);
  const edits = context.showCacheHits ? {} : hideInAnswer(value);
  const body = Buffer.concat(editJson(bytes, layoutOf(bytes), edits));
  reply.start(response.statusCode ?? 200, {
    ...responseHeaders(response.headers),
    'content-length': String(body.length),
  });
  reply.end(body);
}

function shown(event: JsonObject, bytes: Buffer, { input }: MessageUsage, { showCacheHits }: RelayContext): Buffer {
  const hidden = showCacheHits ? undefined : hideInEvent(event, input);
  if (hidden === undefined) return bytes;
  return Buffer.from(`event: ${hidden['type']}\ndata: ${JSON.stringify(hidden)}\n\n`);
}

function withoutKeyOf(bytes: Buffer, { apiKey }: RelayContext): Buffer {
  return Buffer.from(withoutKey(bytes.toString('utf8'), apiKey));
}
