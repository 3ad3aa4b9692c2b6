/** The first line of a connection through Firecracker's sockets: found once, and what follows it is kept. */
import type { Socket } from 'node:net';
import { PassThrough } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import { readLine } from '../../src/vmm/firecracker/channel/relay-line.ts';
import { pieces } from './cuts.ts';
import { must, target } from './target.ts';

const BYTES_MAX = 32;

export const firecrackerLine = target(
  'firecracker-line',
  async (bytes) => {
    const whole = await read([bytes]);
    const cut = await read(pieces(bytes));
    const end = bytes.indexOf(10);
    const expected = end >= 0 && end < BYTES_MAX ? bytes.subarray(0, end + 1) : null;
    for (const { lines, rest } of [whole, cut]) {
      must(lines.length === 1, `called ${lines.length} times`);
      const [line = null] = lines;
      must(line === null ? expected === null : expected?.equals(line) === true, 'another line');
      if (line !== null) must(Buffer.concat([line, rest]).equals(bytes), 'bytes are lost');
    }
  },
  { maxBytes: 200, seeds: ['CONNECT 5000\n{"v":1}', 'OK 1073741824\n', 'x'.repeat(40)] },
);

async function read(
  parts: readonly Buffer[],
): Promise<{ readonly lines: readonly (Buffer | null)[]; readonly rest: Buffer }> {
  const stream = new PassThrough();
  const lines: (Buffer | null)[] = [];
  readLine(stream as unknown as Socket, BYTES_MAX, (line) => lines.push(line));
  for (const part of parts) {
    stream.write(part);
    // The stream tells of it in the next turn.
    await setImmediate();
  }
  stream.end();
  await setImmediate();
  const rest: Buffer[] = [];
  for (let each = stream.read(); each !== null; each = stream.read()) rest.push(each as Buffer);
  stream.destroy();
  await setImmediate();
  return { lines, rest: Buffer.concat(rest) };
}
