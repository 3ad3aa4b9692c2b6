/** Records requests and their answers for a cassette as they pass. */

import type { Refusal } from '../../../base/http/refusal.ts';
import { CacheHintMask } from '../cache-hints.ts';
import { MessageGrammar } from '../dialect/anthropic/answer-grammar.ts';
import { hideInAnswer, hideInEvent } from '../dialect/anthropic/hide-cache-hits.ts';
import { isJsonObject, type JsonLimits, type JsonObject, parseJsonBody, parseObject } from '../json-body.ts';
import { BRIDGE_LIMITS } from '../limits.ts';
import { eventData, SseSplitter } from '../sse.ts';
import { withoutKey } from '../without-key.ts';
import {
  CASSETTE_BYTES_MAX,
  type Cassette,
  cassetteTooLarge,
  type TapedAnswer,
  type TapedExchange,
} from './cassette.ts';
import { normalRequest, requestKey, type TapedRequest } from './normal-form.ts';
import { ShownAnswer } from './shown-answer.ts';
import { answerIdOf, StableAnswer } from './stable-answer.ts';
import type { AnsweredBy, PortTape, Tape, UpstreamAnswer } from './tape.ts';

interface Taken extends AnsweredBy {
  /** Detached from its connection after the end. */
  source: Pick<UpstreamAnswer, 'statusCode' | 'headers' | 'complete'>;
  chunks: readonly Buffer[];
}

interface Recording {
  readonly request: TapedRequest;
  readonly answerId: string;
  taken: Taken | undefined;
  refusal: Refusal | undefined;
}

/** Approximate memory of a recording besides its texts. */
const RECORDING_BYTES = 500;

export class Recorder implements Tape {
  readonly #bytesMax: number;
  /** In order of arrival of the requests. */
  readonly #recordings: Recording[] = [];
  #bytes = 0;

  constructor(bytesMax = CASSETTE_BYTES_MAX) {
    this.#bytesMax = bytesMax;
  }

  open(): PortTape {
    const counts = new Map<string, number>();
    return {
      begin: (request) => {
        const normal = normalRequest(request);
        const key = requestKey(normal);
        const count = counts.get(key) ?? 0;
        const answerId = answerIdOf(key, count);
        const recording: Recording = { request: normal, answerId, taken: undefined, refusal: undefined };
        // A full cassette is never written, so counting can stop.
        if (this.#take(RECORDING_BYTES + JSON.stringify(normal).length)) {
          counts.set(key, count + 1);
          this.#recordings.push(recording);
        }
        return {
          ok: true,
          value: {
            model: null,
            api: 'openai',
            answerId,
            play: () => null,
            keep: (source, from) => {
              const chunks: Buffer[] = [];
              const taken: Taken = { ...from, source, chunks };
              recording.taken = taken;
              source.once('close', () => {
                const { statusCode, complete } = source;
                const type = source.headers['content-type'];
                const headers = type === undefined ? {} : { 'content-type': type };
                taken.source = { statusCode, complete, headers };
                taken.chunks = [Buffer.concat(chunks)];
              });
              return new ShownAnswer(source, (chunk) => {
                if (this.#take(chunk.length)) chunks.push(chunk);
              });
            },
            refuse: (refusal) => {
              recording.refusal = refusal;
            },
          },
        };
      },
    };
  }

  get answeredCount(): number {
    return this.#recordings.filter(isAnswered).length;
  }

  /** Number of requests so far without an answer, or whose answer is not here yet. */
  get unansweredCount(): number {
    return this.#recordings.length - this.answeredCount;
  }

  /** All exchanges with an answer, which may still be arriving. @throws CassetteError `cassette_too_large` */
  exchanges(): Cassette['exchanges'] {
    if (this.#bytes > this.#bytesMax) throw cassetteTooLarge();
    return this.#recordings.flatMap((one): TapedExchange[] => {
      const answer = answerOf(one);
      return answer === null ? [] : [{ request: one.request, answer }];
    });
  }

  /** Returns false if the recording is full; nothing more is kept then. */
  #take(bytes: number): boolean {
    this.#bytes += bytes;
    return this.#bytes <= this.#bytesMax;
  }
}

const isAnswered = ({ taken, refusal }: Recording): boolean => taken !== undefined || refusal !== undefined;

function answerOf({ taken, refusal, answerId }: Recording): TapedAnswer | null {
  if (refusal !== undefined) {
    const { status, code, message, param } = refusal;
    return { refusal: { status, code, message, ...(param === undefined ? {} : { param }) } };
  }
  if (taken === undefined) return null;
  const { source, model, apiKey, api } = taken;
  const answered = api === 'openai' ? { model } : { model, api };
  const status = source.statusCode ?? 502;
  const text = withoutKey(Buffer.concat(taken.chunks).toString('utf8'), apiKey);
  const stable = new StableAnswer(answerId);
  if (/^text\/event-stream\b/i.test(source.headers['content-type'] ?? '')) {
    const splitter = new SseSplitter(CASSETTE_BYTES_MAX);
    const whole = splitter.push(Buffer.from(text)).filter(({ kind }) => kind !== 'ending');
    const rest = source.complete ? splitter.rest() : Buffer.alloc(0);
    const texts = [...whole.map(({ bytes }) => bytes), rest].map(trimmed);
    const given = texts.filter((one) => one !== '');
    const grammar = new MessageGrammar();
    const events = given.map((one) =>
      api === 'openai' ? eventOf(one, stable) : messageEventOf(one, answerId, grammar),
    );
    // Clients hang up at the last event, without waiting for the end.
    const isCut = !source.complete && !LAST_EVENT.test(given.at(-1) ?? '');
    return { ...answered, status, events, ...(isCut ? { cut: true } : {}) };
  }
  const body = api === 'openai' ? bodyOf(text, stable) : messageBodyOf(text, answerId);
  return { ...answered, status, body, ...(source.complete ? {} : { cut: true }) };
}

/** The last event of OpenAI's API, and of Anthropic's. */
const LAST_EVENT = /^data: \[DONE\]$|^event: message_stop$/m;

function bodyOf(text: string, stable: StableAnswer): JsonObject | string {
  const value = objectOf(text);
  return value === undefined ? text : stable.rewrite(value);
}

function messageBodyOf(text: string, answerId: string): JsonObject | string {
  const parsed = parseJsonBody(Buffer.from(text), ANSWER_LIMITS);
  if (!parsed.ok) return text;
  const { value } = parsed.value;
  return { ...value, ...hideInAnswer(value), ...stableId(value, answerId) };
}

function messageEventOf(text: string, answerId: string, grammar: MessageGrammar): string {
  const event = parseObject(eventData(Buffer.from(`${text}\n\n`)) ?? '');
  if (event !== undefined) grammar.parsedEvent(event);
  const hidden = event && (hideInEvent(event, grammar.input) ?? event);
  const message = hidden?.['message'];
  if (!isJsonObject(message)) return hidden === event ? text : eventText(hidden ?? {});
  return eventText({ ...hidden, message: { ...message, ...stableId(message, answerId) } });
}

const stableId = ({ id }: JsonObject, answerId: string): JsonObject =>
  typeof id === 'string' ? { id: `msg_${answerId}` } : {};

const eventText = (event: JsonObject): string => `event: ${event['type']}\ndata: ${JSON.stringify(event)}`;

const trimmed = (event: Buffer): string => event.toString('utf8').replace(/[\r\n]+$/, '');

function eventOf(text: string, stable: StableAnswer): JsonObject | string {
  const data = eventData(Buffer.from(`${text}\n\n`));
  if (data === undefined || text !== `data: ${data}`) return text;
  const value = objectOf(data);
  return value === undefined ? text : stable.rewrite(value);
}

/** Undefined if it is no JSON object, or one that changes when it is written again. */
function objectOf(text: string): JsonObject | undefined {
  // The cached part of a prompt differs between runs.
  const parsed = parseJsonBody(new CacheHintMask().mask(Buffer.from(text)), ANSWER_LIMITS);
  return parsed.ok ? parsed.value.value : undefined;
}

const ANSWER_LIMITS: JsonLimits = BRIDGE_LIMITS;
