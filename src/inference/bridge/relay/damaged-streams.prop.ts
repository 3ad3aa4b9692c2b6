/** Whatever a model server sends, a guest gets the whole answer or sees that it is incomplete. */
import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import {
  CALLS,
  CLIENTS,
  damagedByte,
  damagedOrder,
  disguised,
  EVENTS,
  isHonest,
  pieces,
  type Random,
  SERVERS,
  TEXT,
  type Understood,
} from '../../../../test/support/damaged-streams.ts';
import { randomFrom, runSeed } from '../../../../test/support/run-seed.ts';
import { FakeClock } from '../../../base/clock.ts';
import { passiveTracer } from '../../../base/trace/trace.ts';
import { DIALECTS } from '../dialect/dialects.ts';
import { type Dispatched, dispatch } from '../dispatched.ts';
import { BridgeError } from '../errors.ts';
import { refusalOfFailure } from '../failure.ts';
import { BRIDGE_LIMITS } from '../limits.ts';
import { AnswerNotes } from '../record/answer-notes.ts';
import { Reply } from '../reply.ts';
import { PlayedAnswer } from '../tape/played-answer.ts';
import { beginTrace } from '../trace.ts';
import type { UpstreamApi } from '../upstream/address.ts';
import { relayAnswer } from './relay-answer.ts';
import { translatedBy } from './relay-translated.ts';

class Sink extends ServerResponse {
  readonly #parts: Buffer[] = [];
  override headersSent = false;
  override writableEnded = false;
  isBroken = false;

  text(): string {
    return Buffer.concat(this.#parts).toString('utf8');
  }

  override writeHead(): this {
    this.headersSent = true;
    return this;
  }

  override flushHeaders(): void {
    this.headersSent = true;
  }

  override write(part: Buffer | string): boolean {
    this.#parts.push(Buffer.from(part));
    return true;
  }

  override end(part?: unknown): this {
    if (typeof part === 'string' || Buffer.isBuffer(part)) this.write(part);
    this.writableEnded = true;
    return this;
  }

  override destroy(): this {
    this.isBroken = true;
    return this;
  }
}

const OPERATION = { name: 'chat', upstreamPath: '', required: [], generates: true };
const clock = new FakeClock();
const incoming = new IncomingMessage(new Socket());
incoming.complete = true;
const span = beginTrace({ tracer: passiveTracer(), sandboxId: 's' }, undefined, {
  operation: 'chat',
  model: 'm',
  stream: true,
});

function dispatchedBy(name: string, api: UpstreamApi): Dispatched {
  const dialect = DIALECTS[name];
  const translation = dialect?.translation ?? dialect?.foreign;
  const request = {
    operation: OPERATION,
    clock,
    model: 'm',
    stream: true,
    promptTokensEstimate: 3,
    showCacheHits: false,
    context: { stop: [], reasoning: true },
  };
  const inspection = { model: 'm', stream: true, hideUsage: true, promptTokensEstimate: 3, bound: {}, edits: {} };
  return dispatch({
    operation: OPERATION,
    inspection,
    api,
    translated:
      name === api || translation === undefined
        ? undefined
        : translatedBy(translation, request, () => undefined, api, 'x'),
    model: 'm',
    track: undefined,
    answeredBy: 'm',
    upstream: 'u',
    notes: new AnswerNotes(),
    bodyEndAtMs: 0,
    sentAtMs: 0,
    span,
  });
}

/** Relays a stream as an exchange does. @param isCut true if it breaks off instead of ending */
async function relayed(
  name: string,
  api: UpstreamApi,
  chunks: readonly Buffer[],
  isCut = false,
): Promise<{ readonly sink: Sink; readonly dispatched: Dispatched }> {
  const dialect = DIALECTS[name];
  if (dialect === undefined) throw new Error(name);
  const sink = new Sink(incoming);
  const reply = new Reply(incoming, sink, { dialect, clock, limits: BRIDGE_LIMITS });
  const dispatched = dispatchedBy(name, api);
  const { writer } = dispatched.translated ?? {};
  reply.onFailure(writer?.fail?.bind(writer));
  const contentType = 'text/event-stream';
  const answer = new PlayedAnswer({ status: 200, contentType, chunks: chunks.values(), isCut });
  try {
    await relayAnswer(answer, reply, dispatched, {
      clock,
      limits: BRIDGE_LIMITS,
      signal: new AbortController().signal,
      showCacheHits: false,
      apiKey: undefined,
      onData: () => undefined,
      isSlotWanted: () => false,
      onTokens: () => expectCounts(dispatched),
      cancel: (reason) => expect.unreachable(reason.message),
    });
  } catch (error) {
    expect(error).toBeInstanceOf(BridgeError);
    reply.fail(refusalOfFailure(error));
  } finally {
    answer.destroy();
  }
  expectCounts(dispatched);
  if (!sink.writableEnded && !sink.isBroken) expect.unreachable('the answer has no end');
  return { sink, dispatched };
}

function expectCounts({ counts }: Dispatched): void {
  const { promptTokens, completionTokens, cachedTokens = 0 } = counts();
  const all = [promptTokens, completionTokens, cachedTokens];
  const areCounts = all.every((count) => Number.isSafeInteger(count) && count >= 0);
  // Called for each chunk: `expect` takes longer than everything else.
  if (!areCounts) expect.unreachable(all.join());
}

const WHOLE = { end: 'complete', text: TEXT, calls: CALLS, faults: [] };
const APIS = ['openai', 'anthropic'] as const;
const OTHERS = Object.keys(CLIENTS).length - 1;
const PAIRS = APIS.flatMap((api) =>
  Object.keys(CLIENTS)
    .toSorted((a, b) => Number(a === api) - Number(b === api))
    .map((name, place) => [name, api, place] as const),
);

async function understood(
  name: string,
  api: UpstreamApi,
  chunks: readonly Buffer[],
  isCut = false,
): Promise<Understood & { readonly stream: string }> {
  const { sink, dispatched } = await relayed(name, api, chunks, isCut);
  const stream = sink.text();
  const seen = CLIENTS[name]?.(stream);
  if (seen === undefined) throw new Error(name);
  // The log and the cache must not take anything else for an answer.
  if (seen.end === 'error' && dispatched.translated !== undefined && dispatched.complete())
    expect.unreachable(`an error that counts as complete: ${stream}`);
  return { ...seen, stream };
}

/** A guest must see as much of a server's stream as there is, or that it is incomplete. */
async function expectHonest(name: string, api: UpstreamApi, bytes: Buffer, random: Random): Promise<void> {
  const isCut = random() < 0.3;
  const seen = await understood(name, api, pieces(bytes, random), isCut);
  const sent = SERVERS[api](bytes.toString('utf8'));
  if (isHonest(seen, sent)) return;
  const shown = `${bytes.toString('utf8')}\n---\n${seen.stream}`;
  expect.unreachable(`${[seen.end, ...seen.faults].join()}:\n${shown}`);
}

describe.each(PAIRS)('a stream for a client of %s from a server of %s', (name, api, place) => {
  const events = EVENTS[api];
  const whole = Buffer.from(events.join(''));

  it('is whole, however it is cut, and whatever its line ends, comments and byte order mark', async () => {
    const random = randomFrom(runSeed());
    for (let i = 0; i < 20; i += 1) {
      const bytes = i === 0 ? whole : disguised(events, random);
      const seen = await understood(name, api, pieces(bytes, random));
      expect(seen, `${bytes.toString('utf8')}\n---\n${seen.stream}`).toMatchObject(WHOLE);
    }
  });

  it('that ends after any byte is an error, or has the whole answer', async () => {
    const random = randomFrom(runSeed());
    // Translations to the other dialects share a reader, so each tests a part of the bytes.
    const step = name === api ? 1 : OTHERS;
    for (let length = (runSeed() + place) % step; length < whole.length; length += step) {
      const bytes = whole.subarray(0, length);
      const isCut = random() < 0.3;
      const seen = await understood(name, api, pieces(bytes, random), isCut);
      if (seen.end === 'error' && seen.faults.length === 0) continue;
      const shown = `${bytes.toString('utf8')}\n---\n${seen.stream}`;
      expect(seen, shown).toMatchObject(WHOLE);
    }
  });

  it('with damaged bytes is an error, or is read as the server’s own clients would', async () => {
    const random = randomFrom(runSeed());
    for (let i = 0; i < 100; i += 1) {
      let bytes = damagedByte(whole, random);
      while (random() < 0.3) bytes = damagedByte(bytes, random);
      await expectHonest(name, api, bytes, random);
    }
  });

  it('with events lost, doubled, reordered or after the end is an error, or is read as its own clients would', async () => {
    const random = randomFrom(runSeed());
    for (let i = 0; i < 60; i += 1) {
      await expectHonest(name, api, damagedOrder(events, random), random);
    }
  });
});
