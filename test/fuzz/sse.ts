/** A model server's events: no byte is lost, and the same events however they come. Cache hints are masked in place. */
import { CacheHintMask } from '../../src/inference/bridge/cache-hints.ts';
import { eventData, type SsePiece, SseSplitter } from '../../src/inference/bridge/sse.ts';
import { DocumentUsage, StreamUsage } from '../../src/inference/bridge/usage.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

const EVENT_BYTES_MAX = 200;
const HINT = /"cached_tokens":[1-9]/;

export const sse = target(
  'sse',
  (bytes) => {
    const events = (pieces: readonly Buffer[]): SsePiece[] => {
      const splitter = new SseSplitter(EVENT_BYTES_MAX);
      const out = pieces.flatMap((piece) => splitter.push(piece));
      const rest = splitter.rest();
      must(rest.length <= EVENT_BYTES_MAX, 'more than an event is held');
      const all = Buffer.concat([...out.map((piece) => piece.bytes), rest]);
      must(all.equals(bytes), 'bytes are lost');
      return out;
    };
    sameHoweverCut(bytes, (pieces) => {
      const whole = events(pieces).filter(({ kind }) => kind === 'event');
      for (const { bytes: event } of whole) eventData(event);
      return JSON.stringify(whole.map((event) => event.bytes.toString('latin1')));
    });
    sameHoweverCut(bytes, (pieces) => {
      const usage = new StreamUsage(true);
      const kept = events(pieces).filter((piece) => usage.accept(piece));
      return JSON.stringify([
        Buffer.concat(kept.map((piece) => piece.bytes)).toString('latin1'),
        usage.finished,
        usage.done,
        usage.failed,
      ]);
    });
    const masked = sameHoweverCut(bytes, (pieces) => {
      const mask = new CacheHintMask();
      return Buffer.concat(pieces.map((piece) => mask.mask(piece))).toString('latin1');
    });
    must(masked.length <= bytes.length, 'a mask adds bytes');
    must(isJson(bytes) ? !HINT.test(masked) : true, 'a hint is visible');
    sameHoweverCut(bytes, (pieces) => {
      const usage = new DocumentUsage();
      for (const piece of pieces) usage.push(piece);
      return JSON.stringify(usage.counts(3, true));
    });
  },
  {
    seeds: [
      'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":null}]}\n\ndata: [DONE]\n\n',
      ': note\r\n\r\ndata: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\r\n\r\n',
      'id: 1\rdata\rdata:x\r\r\ndata: {"error":{"message":"no"}}\n\n',
      '{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":77}},"choices":[]}',
    ],
  },
);

function isJson(bytes: Buffer): boolean {
  try {
    JSON.parse(bytes.toString('utf8'));
    return true;
  } catch {
    return false;
  }
}
