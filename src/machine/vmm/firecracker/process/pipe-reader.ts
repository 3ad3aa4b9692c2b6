/**
 * Reads a named pipe continuously, so that its writer never blocks. The pipe is open for writing here too, so it has no
 * end before `finish`.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { Socket } from 'node:net';
import { errorCode } from '../../../../base/errors.ts';
import { ignore } from '../../../../base/ignore.ts';

const CHUNK_BYTES = 64 * 1024;
/** A pipe holds 64 KiB; more comes from a writer that is still running. */
const LAST_CHUNKS_MAX = 32;

export class PipeReader {
  readonly #fd: number;
  readonly #socket: Socket;
  readonly #onBytes: (bytes: Buffer) => void;
  #isFinished = false;

  /** @param path a named pipe; anything else, or a link to one, is refused. @throws Error; Node's errors */
  constructor(path: string, onBytes: (bytes: Buffer) => void) {
    this.#onBytes = onBytes;
    this.#fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW);
    if (!fstatSync(this.#fd).isFIFO()) {
      closeSync(this.#fd);
      throw new Error(`${path} is not a named pipe`);
    }
    this.#socket = new Socket({ fd: this.#fd, readable: true, writable: false });
    this.#socket.on('data', onBytes);
    this.#socket.on('error', (error) => ignore(error, 'a pipe of a VMM broke'));
    this.#socket.unref();
  }

  /** Reads the rest of the pipe and closes it. Idempotent. */
  finish(): void {
    if (this.#isFinished) return;
    this.#isFinished = true;
    for (let chunks = 0; chunks < LAST_CHUNKS_MAX; chunks += 1) {
      const chunk = Buffer.alloc(CHUNK_BYTES);
      const bytes = this.#read(chunk);
      if (bytes === 0) break;
      this.#onBytes(chunk.subarray(0, bytes));
    }
    this.#socket.destroy();
  }

  #read(chunk: Buffer): number {
    try {
      return readSync(this.#fd, chunk);
    } catch (error) {
      if (errorCode(error) !== 'EAGAIN') ignore(error, 'the last words of a VMM are lost');
      return 0;
    }
  }
}
