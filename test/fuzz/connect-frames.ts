/** A client's stream of messages: the same ones however it is cut, and a refusal only of the kinds that the protocol has. */
import { ConnectError, endFrame, frameOf, messagesOf, parseJson } from '../../src/api/e2b/envd/connect.ts';
import { pieces } from './cuts.ts';
import { must, target } from './target.ts';

const CODES = new Set(['invalid_argument', 'resource_exhausted', 'unimplemented']);

export const connectFrames = target(
  'connect-frames',
  async (bytes) => {
    const whole = await read([bytes]);
    for (const cut of [pieces(bytes), [...bytes].map((byte) => Buffer.of(byte))]) {
      must((await read(cut)) === whole, 'cut matters');
    }
  },
  {
    maxBytes: 600,
    seeds: [
      frameOf({ process: { pid: 7 } }),
      Buffer.concat([frameOf({ start: {} }), frameOf({ data: { a: 'é' } }), endFrame()]),
      Buffer.from([1, 0, 0, 0, 2, 0x7b, 0x7d]),
      Buffer.from([0, 0xff, 0xff, 0xff, 0xff]),
    ],
  },
);

async function read(parts: readonly Buffer[]): Promise<string> {
  const messages: unknown[] = [];
  let refusal = '';
  try {
    for await (const message of messagesOf(streamOf(parts), parseJson)) messages.push(message);
  } catch (error) {
    must(error instanceof ConnectError && CODES.has(error.code), `an error of ours: ${error}`);
    refusal = (error as ConnectError).code;
  }
  return JSON.stringify([messages, refusal]);
}

async function* streamOf(parts: readonly Buffer[]): AsyncGenerator<Buffer> {
  for (const part of parts) {
    await Promise.resolve();
    yield part;
  }
}
