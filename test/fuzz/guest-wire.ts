/** The guest's end of the protocol: control connection, operations, lines, frames. Bounded, and the same however cut. */
import { FRAME_HEADER_BYTES, FrameDecoder, LineDecoder } from '../../src/machine/guest/framing.ts';
import { HelloSession } from '../../src/machine/guest/hello.ts';
import { GUEST_LIMITS } from '../../src/machine/guest/limits.ts';
import { OperationSession, type SessionEvent } from '../../src/machine/guest/session.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

const LINE_BYTES_MAX = 60;
const HELLO = JSON.stringify({
  type: 'hello',
  protocol: 1,
  agent: '1',
  python: '3.11',
  timings: { kernelToInitMs: 1, initToAgentMs: null, agentToHelloMs: 2.5 },
  overlay: 'disk',
  cgroup: true,
});

export const guestWire = target(
  'guest-wire',
  (bytes) => {
    sameHoweverCut(bytes, (pieces) => {
      const decoder = new FrameDecoder();
      const out: unknown[] = [];
      for (const piece of pieces) {
        const result = decoder.receive(piece);
        out.push(...result.frames);
        must(
          decoder.pendingBytes <= GUEST_LIMITS.framePayloadBytesMax + FRAME_HEADER_BYTES,
          'more than a frame is held',
        );
        if (!result.ok) return JSON.stringify([out, result.reason]);
      }
      return JSON.stringify([out, decoder.pendingBytes]);
    });
    sameHoweverCut(bytes, lines);
    sameHoweverCut(bytes, operation);
    sameHoweverCut(bytes, control);
  },
  {
    seeds: [
      'OK 1\n{"ok":true,"pid":1,"warm":false}\n\x02\0\0\0\x05hello\x04\0\0\0\x02{}',
      'OK 4294967295\n{"ok":false,"code":"not_found","message":"no such file"}\n',
      '\x02\0\0\0\0\x03\0\x01\0\0\x05\0\0\0\0',
      `${HELLO}\n{"type":"ready","problems":[]}\n{"type":"dropped","count":3}\n`,
      `${HELLO}\n{"type":"refused","code":"x","message":"no"}\n`,
    ],
  },
);

function lines(pieces: readonly Buffer[]): string {
  const decoder = new LineDecoder(LINE_BYTES_MAX);
  const out: string[] = [];
  for (const piece of pieces) {
    for (let rest: Buffer = piece; ; ) {
      const result = decoder.receive(rest);
      must(decoder.pendingBytes <= LINE_BYTES_MAX, 'more than a line is held');
      if (!result.ok) return JSON.stringify([out, result.reason]);
      if (result.line === null) break;
      out.push(result.line.toString('latin1'));
      rest = result.rest;
    }
  }
  return JSON.stringify([out, decoder.pendingBytes]);
}

function operation(pieces: readonly Buffer[]): string {
  const session = new OperationSession();
  const events: SessionEvent[] = [];
  for (const piece of pieces) {
    const was = session.state;
    const found = session.receive(piece);
    must(was !== 'broken' || found.length === 0, 'something came after the break');
    events.push(...found);
  }
  if (session.state === 'held') events.push(...session.begin('frames'));
  return JSON.stringify(events, (_key, value: unknown) => (value instanceof Error ? value.message : value));
}

function control(pieces: readonly Buffer[]): string {
  let welcomes = 0;
  const session = new HelloSession({ sandboxId: 'a', hostname: 'h', env: {}, limits: {} }, () => {
    welcomes += 1;
    return { wallNs: 1n, entropy: new Uint8Array(64) };
  });
  const events: unknown[] = [];
  for (const piece of pieces) {
    const was = session.state;
    const found = session.receive(piece);
    must(was !== 'over' || found.length === 0, 'something came after the end');
    events.push(...found);
  }
  must(welcomes <= 1, 'welcomed twice');
  return JSON.stringify([events, session.takeOutput()]);
}
