import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { endFrame, frameOf, messagesOf, parseJson } from './connect.ts';

describe('messagesOf', () => {
  it('yields the messages that frameOf encoded, however the stream is cut', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.dictionary(fc.string(), fc.jsonValue()), { maxLength: 5 }),
        fc.array(fc.nat(200), { maxLength: 20 }),
        fc.boolean(),
        async (messages, cuts, hasEnd) => {
          const frames = messages.map(frameOf);
          const bytes = Buffer.concat(hasEnd ? [...frames, endFrame()] : frames);
          const read: unknown[] = [];
          for await (const message of messagesOf(cutAt(bytes, cuts), parseJson)) read.push(message);
          expect(read).toEqual(messages.map((message) => JSON.parse(JSON.stringify(message))));
        },
      ),
    );
  });

  it('refuses a stream that ends within a message', async () => {
    await fc.assert(
      fc.asyncProperty(fc.jsonValue(), fc.nat(), async (value, place) => {
        const bytes = frameOf({ value });
        const cut = bytes.subarray(0, 1 + (place % (bytes.length - 1)));
        const reading = (async () => {
          for await (const message of messagesOf(cutAt(cut, []), parseJson)) expect.unreachable(`${message}`);
        })();
        await expect(reading).rejects.toMatchObject({ code: 'invalid_argument' });
      }),
    );
  });

  it('reads a large message that arrives byte by byte without repeated joining', async () => {
    const value = 'x'.repeat(1024 * 1024);
    const bytes = frameOf({ value });
    async function* each(): AsyncGenerator<Buffer> {
      for (let at = 0; at < bytes.length; at += 1) yield bytes.subarray(at, at + 1);
    }
    const read: unknown[] = [];
    for await (const message of messagesOf(each(), parseJson)) read.push(message);
    expect(read).toEqual([{ value }]);
  });
});

async function* cutAt(bytes: Buffer, cuts: readonly number[]): AsyncGenerator<Buffer> {
  const places = [...new Set(cuts.filter((at) => at < bytes.length))].sort((a, b) => a - b);
  let start = 0;
  for (const end of [...places, bytes.length]) {
    await Promise.resolve();
    yield bytes.subarray(start, end);
    start = end;
  }
}
