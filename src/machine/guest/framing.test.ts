import { describe, expect, it } from 'vitest';
import { encodeFrames, FRAME, FrameDecoder, frameHeader, LineDecoder } from './framing.ts';
import { GUEST_LIMITS } from './limits.ts';

describe('encodeFrames', () => {
  it('writes kind, big-endian length and payload', () => {
    const bytes = Buffer.concat(encodeFrames(FRAME.stdin, Buffer.from('ab')));
    expect([...bytes]).toEqual([1, 0, 0, 0, 2, 0x61, 0x62]);
  });
  it('splits content at the frame limit, and makes no frame for empty content', () => {
    const content = Buffer.alloc(GUEST_LIMITS.framePayloadBytesMax + 1);
    const parts = encodeFrames(FRAME.body, content);
    expect(parts.map((part) => part.length)).toEqual([5, GUEST_LIMITS.framePayloadBytesMax, 5, 1]);
    expect(encodeFrames(FRAME.body, new Uint8Array())).toEqual([]);
  });
});

describe('FrameDecoder', () => {
  it('returns frames as they become complete, empty ones too', () => {
    const decoder = new FrameDecoder();
    const bytes = Buffer.from([2, 0, 0, 0, 1, 7, 3, 0, 0, 0, 0]);
    expect(decoder.receive(bytes.subarray(0, 7))).toMatchObject({
      ok: true,
      frames: [{ kind: 2, payload: Buffer.from([7]) }],
    });
    expect(decoder.receive(bytes.subarray(7))).toMatchObject({
      ok: true,
      frames: [{ kind: 3, payload: Buffer.alloc(0) }],
    });
    expect(decoder.pendingBytes).toBe(0);
  });
  it('refuses kinds that a guest may not send, and stays broken', () => {
    for (const kind of [0, FRAME.stdin, FRAME.body, 6, 255]) {
      const decoder = new FrameDecoder();
      expect(decoder.receive(frameHeader(kind, 0)).ok).toBe(false);
      expect(decoder.receive(frameHeader(FRAME.stdout, 0)).ok).toBe(false);
    }
  });
  it('refuses a length above the limit after reading only its header', () => {
    const header = frameHeader(FRAME.stdout, GUEST_LIMITS.framePayloadBytesMax + 1);
    expect(new FrameDecoder().receive(header).ok).toBe(false);
    const allowed = frameHeader(FRAME.stdout, GUEST_LIMITS.framePayloadBytesMax);
    expect(new FrameDecoder().receive(allowed)).toEqual({ ok: true, frames: [] });
  });
});

describe('LineDecoder', () => {
  it('returns the bytes after the newline unchanged (G26)', () => {
    const decoder = new LineDecoder(64);
    expect(decoder.receive(Buffer.from('OK 1'))).toEqual({ ok: true, line: null });
    expect(decoder.receive(Buffer.from('0\n\0rest\n'))).toEqual({
      ok: true,
      line: Buffer.from('OK 10'),
      rest: Buffer.from('\0rest\n'),
    });
  });
  it('refuses a line above the limit, complete or not', () => {
    expect(new LineDecoder(4).receive(Buffer.from('12345\n')).ok).toBe(false);
    expect(new LineDecoder(4).receive(Buffer.from('12345')).ok).toBe(false);
    expect(new LineDecoder(4).receive(Buffer.from('1234\n')).ok).toBe(true);
  });
});
