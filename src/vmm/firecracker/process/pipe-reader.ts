/**
 * Reads a named pipe that another process writes to, always, so that the writer is never held up. The pipe is
 * open for writing here too: it has no end before `finish`.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { Socket } from 'node:net';
import { errorCode } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';

const CHUNK_BYTES = 64 * 1024;
/** A pipe holds 64 KiB; more than this comes from a writer that is still there. */
const LAST_CHUNKS_MAX = 32;

export class PipeReader {
  readonly #fd: number;
  readonly #socket: Socket;
  readonly #onBytes: (bytes: Buffer) => void;
  #isFinished = false;

  /** @param path of a named pipe; a link or anything else is refused. @throws Error, of Node too */
  constructor(path: string, onBytes: (bytes: Buffer) => void) {
    this.#onBytes = onBytes;
    this.#fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK | constants.O_NOFOLLOW);
    if (!fstatSync(this.#fd).isFIFO()) {
      closeSync(this.#fd);
      throw new Error(`${path} is no named pipe`);
    }
    this.#socket = new Socket({ fd: this.#fd, readable: true, writable: false });
    this.#socket.on('data', onBytes);
    this.#socket.on('error', (error) => ignore(error, 'a pipe of a VMM broke'));
    this.#socket.unref();
  }

  /** Takes what is left in the pipe and closes it. Idempotent. */
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
