/**
 * Everything a guest sends is hostile: the parsers are bounded, never throw, and give the same result wherever the
 * stream is cut.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeFrames, FRAME, FrameDecoder, LineDecoder } from './framing.ts';
import { HelloSession } from './hello.ts';
import { GUEST_LIMITS } from './limits.ts';
import {
  parseConfirm,
  parseEntry,
  parseEvent,
  parseExitFrame,
  parseFileEvent,
  parseHello,
  parseReply,
  readProcesses,
  readStarted,
} from './protocol.ts';
import { OperationSession, type SessionEvent } from './session.ts';

const bytes = (maxLength: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));
const cuts = fc.array(fc.nat({ max: 400 }), { maxLength: 12 });

function pieces(data: Buffer, at: readonly number[]): Buffer[] {
  const points = [...new Set([0, ...at.map((n) => Math.min(n, data.length)), data.length])];
  points.sort((a, b) => a - b);
  return points.slice(1).map((end, index) => data.subarray(points[index], end));
}

const kinds = fc.constantFrom(FRAME.stdout, FRAME.stderr, FRAME.control);
const frames = fc.array(fc.record({ kind: kinds, payload: bytes(40) }), { maxLength: 8 });
const encode = (list: readonly { kind: number; payload: Buffer }[]): Buffer =>
  Buffer.concat(
    list.flatMap(({ kind, payload }) =>
      payload.length === 0 ? [Buffer.from([kind, 0, 0, 0, 0])] : encodeFrames(kind, payload),
    ),
  );

describe('FrameDecoder', () => {
  it('round trip: frames cut anywhere are decoded whole', () => {
    fc.assert(
      fc.property(frames, cuts, (list, at) => {
        const decoder = new FrameDecoder();
        const out = pieces(encode(list), at).flatMap((piece) => {
          const result = decoder.receive(piece);
          return result.ok ? [...result.frames] : [];
        });
        expect(out).toEqual(list);
        expect(decoder.pendingBytes).toBe(0);
      }),
    );
  });
  it('hostile bytes: never throws, holds at most one frame', () => {
    fc.assert(
      fc.property(fc.array(bytes(300), { maxLength: 30 }), (chunks) => {
        const decoder = new FrameDecoder();
        for (const chunk of chunks) {
          decoder.receive(chunk);
          expect(decoder.pendingBytes).toBeLessThanOrEqual(GUEST_LIMITS.framePayloadBytesMax + 5);
        }
      }),
    );
  });
});

describe('FrameDecoder, hostile', () => {
  it('cut anywhere: the same frames and the same error', () => {
    fc.assert(
      fc.property(frames, bytes(60), cuts, (list, tail, at) => {
        const data = Buffer.concat([encode(list), tail]);
        const run = (parts: readonly Buffer[]): string => {
          const decoder = new FrameDecoder();
          const out: unknown[] = [];
          for (const part of parts) {
            const result = decoder.receive(part);
            out.push(...result.frames);
            if (!result.ok) return JSON.stringify([out, result.reason]);
          }
          return JSON.stringify([out, decoder.pendingBytes]);
        };
        expect(run(pieces(data, at))).toBe(run([data]));
      }),
    );
  });
});

describe('LineDecoder', () => {
  it('lines cut anywhere are decoded whole, and memory stays within the limit', () => {
    fc.assert(
      fc.property(fc.array(bytes(60), { maxLength: 10 }), cuts, (chunks, at) => {
        const data = Buffer.concat(chunks);
        const read = (parts: readonly Buffer[]): string[] => {
          const decoder = new LineDecoder(50);
          const out: string[] = [];
          for (const part of parts) {
            let rest: Buffer = part;
            for (;;) {
              const result = decoder.receive(rest);
              expect(decoder.pendingBytes).toBeLessThanOrEqual(50);
              if (!result.ok) return [...out, 'too long'];
              if (result.line === null) break;
              out.push(result.line.toString('hex'));
              rest = result.rest;
            }
          }
          return out;
        };
        expect(read(pieces(data, at))).toEqual(read([data]));
      }),
    );
  });
});

const jsonish = fc.oneof(
  fc.json().map((text) => Buffer.from(text)),
  bytes(200),
  fc
    .record({
      type: fc.constantFrom('hello', 'ready', 'refused', 'exit', 'oom', 'warm', 'log', 'dropped'),
      protocol: fc.anything(),
      ok: fc.boolean(),
      code: fc.string(),
      message: fc.string(),
      pid: fc.oneof(fc.integer(), fc.double()),
      exitCode: fc.oneof(fc.integer(), fc.constant(null)),
      entry: fc.anything(),
      count: fc.double(),
    })
    .map((value) => Buffer.from(JSON.stringify(value) ?? 'null')),
);

describe('messages', () => {
  it('hostile lines: every parser answers with a value or a reason', () => {
    const parsers = [parseHello, parseConfirm, parseEvent, parseEntry, parseExitFrame, parseFileEvent, parseReply];
    fc.assert(
      fc.property(jsonish, (line) => {
        for (const parse of parsers) expect(typeof parse(line).ok).toBe('boolean');
      }),
    );
  });
  it('nesting: a line of brackets as deep as the limit allows is refused, not thrown', () => {
    const deep = Buffer.alloc(GUEST_LIMITS.controlLineBytesMax, '[');
    expect(parseEvent(deep).ok).toBe(false);
    const closed = Buffer.from(`{"type":"dropped","count":1,"x":${'['.repeat(30_000)}${']'.repeat(30_000)}}`);
    expect(parseEvent(closed).ok).toBe(true);
  });
});

describe('offsets of output', () => {
  it('hostile answers: an offset is a whole number that a client can count with, or the answer is refused', () => {
    const offset = fc.oneof(fc.nat(), fc.maxSafeNat(), fc.double(), fc.integer(), fc.anything());
    const offsets = fc.oneof(fc.record({ stdout: offset, stderr: offset }), fc.anything());
    fc.assert(
      fc.property(offsets, offsets, fc.anything(), (from, to, ended) => {
        const started = readStarted({ pid: 1, warm: false, from, to });
        const read = started.ok ? [started.value.from, started.value.to] : [];
        for (const at of read.flatMap((one) => (one === undefined ? [] : [one.stdout, one.stderr]))) {
          expect(Number.isSafeInteger(at) && at >= 0).toBe(true);
        }
        const listed = readProcesses({ processes: [], ended });
        if (listed.ok) expect(Array.isArray(listed.value.ended)).toBe(true);
      }),
    );
  });
});

describe('sessions', () => {
  it('HelloSession: never throws, and is over after the first broken line', () => {
    fc.assert(
      fc.property(fc.array(jsonish, { maxLength: 6 }), (lines) => {
        const session = new HelloSession({ sandboxId: 'a', hostname: 'h', env: {}, limits: {} }, () => ({
          wallNs: 1n,
          entropy: new Uint8Array(64),
        }));
        for (const line of lines) {
          const was = session.state;
          const events = session.receive(Buffer.concat([line, Buffer.from('\n')]));
          if (was === 'over') expect(events).toEqual([]);
        }
      }),
    );
  });
  it('OperationSession: the same events wherever the stream is cut', () => {
    const stream = fc.tuple(
      fc.constantFrom('OK 1\n', 'OK \n', 'x'),
      fc.constantFrom('{"ok":true,"pid":1}\n', '{"ok":false,"code":"x","message":"y"}\n', '{\n'),
      frames,
      bytes(20),
    );
    fc.assert(
      fc.property(stream, cuts, ([ok, reply, list, tail], at) => {
        const data = Buffer.concat([Buffer.from(ok + reply), encode(list), tail]);
        const run = (parts: readonly Buffer[]): string => {
          const session = new OperationSession();
          const events: SessionEvent[] = [];
          for (const part of parts) events.push(...session.receive(part));
          if (session.state === 'held') events.push(...session.begin('frames'));
          return JSON.stringify(events);
        };
        expect(run(pieces(data, at))).toBe(run([data]));
      }),
    );
  });
});
