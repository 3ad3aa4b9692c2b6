/** The fake guest of tests: speaks the protocol of `test/fixtures/echo-guest.c`. */
import type { Duplex } from 'node:stream';
import { errorCode } from '../../../src/base/errors.ts';
import { ignore } from '../../../src/base/ignore.ts';
import type { FakeGuest, FakeGuestIo } from './guest.ts';

const HELLO_PORT = 1024;
const COMMAND_PORT = 5000;
const LINE_BYTES_MAX = 256;
const FLOOD_LINES = 10_000;

/** Dials host port 1024 once, then answers one command per connection on port 5000. */
export const scriptedGuest: FakeGuest = async (io) => {
  io.print('fake guest: init\n');
  io.typed.on('data', (bytes: Buffer) => io.print(`typed: ${bytes.toString('utf8')}`));
  io.onConnect(COMMAND_PORT, (stream) => void serve(io, stream));
  try {
    (await io.connectToHost(HELLO_PORT)).end('ready\n');
  } catch (error) {
    ignore(error, 'nothing listens for the hello');
  }
};

async function serve(io: FakeGuestIo, stream: Duplex): Promise<void> {
  try {
    await run(io, stream, await readLine(stream));
  } catch (error) {
    ignore(error, 'a command of the scripted guest ended early');
    stream.destroy();
  }
}

async function run(io: FakeGuestIo, stream: Duplex, line: string): Promise<void> {
  const [command = '', argument = ''] = line.split(/ (.*)/s, 2);
  switch (command) {
    case 'ECHO':
      stream.pipe(stream);
      return;
    case 'DIAL':
      stream.end(await dialBack(io, Number(argument)));
      return;
    case 'PRINT':
      io.print(`${argument}\n`);
      stream.end('done');
      return;
    case 'FLOOD':
      stream.end('flooding');
      for (let i = 0; i < FLOOD_LINES; i++) io.print(`${'0123456789'.repeat(7)}\n`);
      return;
    case 'REBOOT':
    case 'POWEROFF':
    case 'PANIC':
      io.shutDown();
      return;
    default:
      stream.end('unknown command');
  }
}

async function dialBack(io: FakeGuestIo, port: number): Promise<Buffer> {
  try {
    const stream = await io.connectToHost(port);
    stream.write('ping');
    for await (const bytes of stream) return bytes as Buffer;
    return Buffer.alloc(0);
  } catch (error) {
    if (errorCode(error) === undefined) throw error;
    return Buffer.from('refused');
  }
}

/** Reads up to the newline; the rest stays in the stream. */
async function readLine(stream: Duplex): Promise<string> {
  let head = Buffer.alloc(0);
  for await (const bytes of stream.iterator({ destroyOnReturn: false })) {
    head = Buffer.concat([head, bytes as Buffer]);
    const end = head.indexOf('\n');
    if (end < 0 && head.length <= LINE_BYTES_MAX) continue;
    if (end >= 0 && end + 1 < head.length) stream.unshift(head.subarray(end + 1));
    return head.toString('utf8', 0, Math.max(0, end));
  }
  return '';
}
