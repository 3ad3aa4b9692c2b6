/** A server's WebSocket frames: valid frames come out, with the same messages but the secret, however they are cut. */
import { Scrubber } from '../../src/egress/net/secret/scrubber.ts';
import { SecretWebSocket } from '../../src/egress/net/secret/websocket.ts';
import { SECRET_MATCHER, SECRET_VALUE } from '../support/server-secret.ts';
import { sameHoweverCut } from './cuts.ts';
import { must, target } from './target.ts';

interface Message {
  readonly opcode: number;
  readonly payload: string;
}

interface Read {
  /** Control frames and messages in the order in which they end. */
  readonly messages: readonly Message[];
  /** The message that has no end yet. */
  readonly open: Message | undefined;
  readonly isCut: boolean;
}

export const secretWebsocket = target(
  'secret-websocket',
  (bytes) => {
    let isRefused = false;
    const text = sameHoweverCut(bytes, (pieces) => {
      const socket = new SecretWebSocket(SECRET_MATCHER);
      const out: Buffer[] = [];
      isRefused = false;
      for (const piece of pieces) {
        const passed = socket.push(piece);
        out.push(...passed.pieces);
        isRefused = passed.isBroken;
        if (isRefused) break;
      }
      const { messages, open, isCut } = read(Buffer.concat(out));
      must(!isCut, 'half a frame was passed on');
      // Before a refusal, how much of the last message was passed on depends on the pieces.
      return JSON.stringify([messages, isRefused || open?.opcode, isRefused]);
    });
    must(!text.includes(SECRET_VALUE), 'the secret itself');
    if (isRefused) return;
    const expected = read(bytes).messages.map(({ opcode, payload }) => {
      const scrubber = new Scrubber(SECRET_MATCHER);
      const clean = [scrubber.push(Buffer.from(payload, 'latin1')), scrubber.end()];
      return { opcode, payload: Buffer.concat(clean).toString('latin1') };
    });
    const [messages] = JSON.parse(text) as [readonly Message[]];
    must(JSON.stringify(messages) === JSON.stringify(expected), 'other messages');
  },
  {
    seeds: [
      `\x81\x14${SECRET_VALUE}`,
      '\x01\x0atok_012345\x89\x02hi\x80\x0a6789abcdef',
      '\x82\x7e\x00\x05hello\x88\x02\x03\xe8',
      '\x82\x7f\0\0\0\0\0\0\0\x02ok\x80',
    ],
  },
);

function read(bytes: Buffer): Read {
  const messages: Message[] = [];
  let open: Message | undefined;
  let at = 0;
  while (at + 2 <= bytes.length) {
    const [first = 0, second = 0] = bytes.subarray(at);
    const short = second & 127;
    const more = short === 127 ? 8 : short === 126 ? 2 : 0;
    if (at + 2 + more > bytes.length) break;
    const length = lengthAt(bytes, at + 2, more) ?? short;
    const start = at + 2 + more;
    if (start + length > bytes.length) break;
    const payload = bytes.toString('latin1', start, start + length);
    const opcode = first & 15;
    at = start + length;
    if (opcode >= 8) messages.push({ opcode, payload });
    else {
      open = { opcode: open?.opcode ?? opcode, payload: (open?.payload ?? '') + payload };
      if ((first & 128) === 0) continue;
      messages.push(open);
      open = undefined;
    }
  }
  return { messages, open, isCut: at < bytes.length };
}

function lengthAt(bytes: Buffer, at: number, lengthBytes: number): number | undefined {
  if (lengthBytes === 0) return undefined;
  return lengthBytes === 2 ? bytes.readUInt16BE(at) : Number(bytes.readBigUInt64BE(at));
}
