/** A model server's stream, translated: the same answer however it is cut, and whole only if the server's is. */
import { FakeClock } from '../../src/base/clock.ts';
import { MessagesAnswerReader } from '../../src/inference/bridge/dialect/anthropic/read-answer.ts';
import { DIALECTS } from '../../src/inference/bridge/dialect/dialects.ts';
import type { AnswerEvent } from '../../src/inference/bridge/dialect/model.ts';
import { OpenaiAnswerReader } from '../../src/inference/bridge/dialect/openai/read-answer.ts';
import { BridgeError } from '../../src/inference/bridge/errors.ts';
import { eventData, SseSplitter } from '../../src/inference/bridge/sse.ts';
import { answerOptions } from '../support/conversation-arbitraries.ts';
import { CLIENTS, EVENTS, isHonest, SERVERS } from '../support/damaged-streams.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

const EVENT_BYTES_MAX = 2000;
const FAILURE = { status: 502, code: 'upstream_died', message: 'm' };
const clock = new FakeClock();

type Api = keyof typeof EVENTS & ('openai' | 'anthropic');

/** What a client of the dialect gets. */
function translated(name: string, api: Api, pieces: readonly Buffer[]): string {
  const dialect = DIALECTS[name];
  const translation = dialect?.translation ?? dialect?.foreign;
  if (dialect === undefined || translation === undefined) throw new Error(name);
  const context = { stop: [], reasoning: true };
  const writer = translation.answer({ ...answerOptions(true, { context }), clock });
  const Reader = api === 'anthropic' ? MessagesAnswerReader : OpenaiAnswerReader;
  const reader = new Reader(context, 'x');
  const splitter = new SseSplitter(EVENT_BYTES_MAX);
  let out = '';
  const take = (events: readonly AnswerEvent[]): void => {
    for (const event of events) {
      if (event.type === 'error') throw new BridgeError('upstream_failed', 'm');
      out += writer.write(event);
    }
  };
  const read = (bytes: Buffer): void => {
    const data = writer.done ? undefined : eventData(bytes);
    if (data !== undefined) take(reader.readEvent(data));
  };
  try {
    for (const piece of pieces.flatMap((bytes) => splitter.push(bytes))) {
      if (piece.kind === 'part' && !writer.done) throw new BridgeError('upstream_protocol', 'm');
      read(piece.bytes);
    }
    read(splitter.rest());
    if (!writer.done) take(reader.end());
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    must(!writer.done, 'an error after the end');
    return out + (writer.fail?.(FAILURE) ?? dialect.errorEvent(FAILURE));
  }
  return out;
}

export const upstreamAnswers = target(
  'upstream-answers',
  (bytes) => {
    for (const api of ['openai', 'anthropic'] as const) {
      const sent = SERVERS[api](bytes.toString('utf8'));
      for (const name of Object.keys(CLIENTS)) {
        if (name === api) continue;
        const text = sameHoweverCut(bytes, (pieces) => translated(name, api, pieces));
        const seen = CLIENTS[name]?.(text);
        must(seen !== undefined && isHonest(seen, sent), `${name} from ${api}:\n${text}`);
      }
    }
  },
  { seeds: [Buffer.from(EVENTS.openai.join('')), Buffer.from(EVENTS.anthropic.join(''))] },
);
