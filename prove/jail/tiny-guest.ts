/**
 * A guest of 14 KB, for a host whose KVM boots no Linux: its disk driver can try to write to a disk. It answers one
 * command per connection (`tiny-guest/guest.c`).
 */
import { execFile } from 'node:child_process';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { errorCode } from '../../src/base/errors.ts';
import { ignore } from '../../src/base/ignore.ts';
import { INSTALL_COMPILER, ProofError } from '../errors.ts';

export const TINY_GUEST_DIR = join(import.meta.dirname, 'tiny-guest');
export const TINY_GUEST_FLAGS: readonly string[] = [
  '-ffreestanding',
  '-nostdlib',
  '-static',
  '-fno-pic',
  '-no-pie',
  '-O1',
  '-Wall',
  '-Werror',
  // Integer instructions only: KVM may emulate them one by one.
  '-mno-sse',
  '-mno-mmx',
  '-mgeneral-regs-only',
  '-fno-stack-protector',
  '-mno-red-zone',
  '-fcf-protection=none',
  '-fno-asynchronous-unwind-tables',
  '-fno-strict-aliasing',
  '-Wl,-T,link.ld,--build-id=none,-z,noexecstack,--no-warn-rwx-segments',
];

const HELLO_PORT = 1024;
const COMMAND_PORT = 5000;
const ANSWER_BYTES_MAX = 4 * 1024;
const ANSWER_MS_MAX = 60_000;
const COMPILE_MS_MAX = 60_000;

/** @throws ProofError `no_world` */
export async function buildTinyGuest(path: string): Promise<void> {
  const options = { cwd: TINY_GUEST_DIR, timeout: COMPILE_MS_MAX };
  const words = [...TINY_GUEST_FLAGS, 'entry.S', 'guest.c', '-o', path];
  try {
    await promisify(execFile)('gcc', words, options);
  } catch (cause) {
    const isMissing = errorCode(cause) === 'ENOENT';
    const more = isMissing ? { remedy: INSTALL_COMPILER } : {};
    throw new ProofError('no_world', 'could not compile the guest of the proof', { cause, ...more });
  }
}

/** Listens for the guest's greeting. Call it before the guest starts. */
export async function awaitTinyGuest(
  channelPath: string,
): Promise<{ readonly ready: Promise<void>; close(): Promise<void> }> {
  const { promise: ready, resolve } = Promise.withResolvers<void>();
  const server: Server = createServer((socket) => {
    socket.on('error', (error) => ignore(error, 'it has said what it had to'));
    socket.once('data', () => {
      resolve();
      socket.destroy();
    });
  });
  await new Promise<void>((listening, fail) => {
    server.once('error', fail);
    server.listen(`${channelPath}_${HELLO_PORT}`, listening);
  });
  return { ready, close: () => new Promise((closed) => server.close(() => closed())) };
}

/** @returns the guest's answer to one command */
export function askTinyGuest(channelPath: string, command: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path: channelPath, allowHalfOpen: true });
    let said = '';
    socket.write(`CONNECT ${COMMAND_PORT}\n${command}\n`);
    socket.on('data', (bytes: Buffer) => {
      said = (said + bytes.toString('latin1')).slice(0, ANSWER_BYTES_MAX);
    });
    socket.setTimeout(ANSWER_MS_MAX, () => socket.destroy(new Error('the guest does not answer')));
    socket.once('error', reject);
    socket.once('end', () => {
      socket.destroy();
      const answer = /^OK \d+\n(.*)$/s.exec(said)?.[1];
      if (answer === undefined) reject(new Error(`the guest answered ${JSON.stringify(said)}`));
      else resolve(answer);
    });
  });
}
