/** Forwards an upstream's answer in the guest's dialect, whatever form the upstream chose (io). */
import { randomBytes } from 'node:crypto';
import { MessagesAnswerReader } from '../dialect/anthropic/read-answer.ts';
import type { AnswerOptions, AnswerReader, AnswerTranslation, AnswerWriter } from '../dialect/dialect.ts';
import type { AnswerEvent } from '../dialect/model.ts';
import { OpenaiAnswerReader } from '../dialect/openai/read-answer.ts';
import { OpenaiVectorReader } from '../dialect/openai/read-vectors.ts';
import { BridgeError } from '../errors.ts';
import { responseHeaders } from '../headers.ts';
import type { Reply } from '../reply.ts';
import { eventData, SseSplitter } from '../sse.ts';
import type { UpstreamAnswer } from '../tape/tape.ts';
import type { UpstreamApi } from '../upstream/address.ts';
import type { AnswerCounter, DocumentUsage } from '../usage.ts';
import { drain, publicMessage, pump, type RelayContext, readWhole, requirePlain, tooLong } from './relay.ts';

const ANSWER_ID_BYTES = 12;
/** A longer plain answer is sent before it is whole. */
const HELD_CHARACTERS_MAX = 64 * 1024;

export interface Translated {
  readonly reader: AnswerReader;
  readonly writer: AnswerWriter;
  readonly translation: AnswerTranslation;
  readonly stream: boolean;
}

/**
 * The translation of one answer.
 * @param keepBy keeps the answer by its id
 * @param api of the upstream
 * @param id hexadecimal; random by default
 */
export function translatedBy(
  translation: AnswerTranslation,
  request: Omit<AnswerOptions, 'id' | 'keep'>,
  keepBy: (id: string) => AnswerOptions['keep'],
  api: UpstreamApi,
  id = randomBytes(ANSWER_ID_BYTES).toString('hex'),
): Translated {
  const { operation, context, stream } = request;
  const Reader = api === 'anthropic' ? MessagesAnswerReader : OpenaiAnswerReader;
  const reader = operation.generates ? new Reader(context, id) : new OpenaiVectorReader(context);
  const writer = translation.answer({ ...request, id, keep: keepBy(id) });
  return { reader, writer, translation, stream };
}

/**
 * Translates an answer that comes as a stream of events, and counts it in `usage`.
 * @throws BridgeError `upstream_died`, `upstream_protocol`, `upstream_failed`, or the signal's reason
 */
export async function translateStream(
  response: UpstreamAnswer,
  reply: Reply,
  usage: AnswerCounter,
  translated: Translated,
  context: RelayContext,
): Promise<void> {
  requirePlain(response);
  const { reader, writer, stream } = translated;
  const output = new Output(response, reply, translated, context.apiKey);
  const splitter = new SseSplitter(context.limits.eventBytesMax);
  const see = usage.add.bind(usage);
  const read = (bytes: Buffer): readonly AnswerEvent[] => {
    const data = eventData(bytes);
    return data === undefined ? [] : reader.readEvent(data, see);
  };
  let bytes = 0;
  const accept = (chunk: Buffer): boolean => {
    bytes += chunk.length;
    // A plain answer is held until it is whole.
    if (!stream && bytes > context.limits.answerBytesMax) throw tooLong();
    const before = usage.chunks;
    const events: AnswerEvent[] = [];
    for (const piece of splitter.push(chunk)) {
      if (piece.kind === 'part') throw tooLong();
      for (const event of read(piece.bytes)) events.push(event);
    }
    context.onTokens(usage.chunks - before);
    return output.send(events);
  };
  await pump(response, reply, context, accept, () => writer.done);
  if (!writer.done) {
    const rest = splitter.rest();
    output.send([...read(rest), ...reader.end()]);
  }
  reply.end();
  await drain(response, context);
}

/** Translates an answer that comes as a whole; embeddings are only counted by bytes. @throws as `translateStream` */
export async function translateDocument(
  response: UpstreamAnswer,
  reply: Reply,
  usage: AnswerCounter | DocumentUsage,
  translated: Translated,
  context: RelayContext,
): Promise<void> {
  requirePlain(response);
  const { reader } = translated;
  const output = new Output(response, reply, translated, context.apiKey);
  if (reader.readPart !== undefined) {
    await pump(response, reply, context, (chunk) => {
      usage.push(chunk);
      return output.send(reader.readPart?.(chunk) ?? []);
    });
    output.send(reader.end());
    reply.end();
    return;
  }
  const bytes = await readWhole(response, reply, context, (chunk) => usage.push(chunk));
  const text = bytes.toString('utf8');
  output.send(reader.readDocument(text, (piece) => 'add' in usage && usage.add(piece)));
  reply.end();
}

class Output {
  readonly #reply: Reply;
  readonly #translated: Translated;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #apiKey: string | undefined;
  #held = '';
  #started = false;

  constructor(response: UpstreamAnswer, reply: Reply, translated: Translated, apiKey: string | undefined) {
    const { headers } = response;
    this.#apiKey = apiKey;
    this.#reply = reply;
    this.#translated = translated;
    const {
      'content-length': _length,
      'content-type': _type,
      'content-encoding': _encoding,
      ...passing
    } = responseHeaders(headers);
    this.#headers = { ...passing, ...translated.translation.answerHeaders(headers) };
    if (translated.stream) reply.startStream(this.#headers);
  }

  send(events: readonly AnswerEvent[]): boolean {
    const { writer, stream } = this.#translated;
    let text = '';
    let failure: string | undefined;
    for (const event of events) {
      if (event.type === 'error') failure = publicMessage(event.message, this.#apiKey);
      else text += writer.write(event);
    }
    if (!stream) text = failure === undefined ? this.#startPlain(text) : '';
    const open = text === '' || this.#reply.write(Buffer.from(text));
    if (failure !== undefined) throw new BridgeError('upstream_failed', failure);
    return open;
  }

  /** Buffers the start of an answer until it can no longer be an error object. @returns the text to send */
  #startPlain(text: string): string {
    if (this.#started) return text;
    this.#held += text;
    const { done } = this.#translated.writer;
    if (this.#held === '' || (!done && this.#held.length < HELD_CHARACTERS_MAX)) return '';
    this.#started = true;
    const length = done ? { 'content-length': String(Buffer.byteLength(this.#held)) } : {};
    const type = { 'content-type': 'application/json' };
    this.#reply.start(200, { ...this.#headers, ...type, ...length });
    const held = this.#held;
    this.#held = '';
    return held;
  }
}
