import { Readable } from 'node:stream';
import type { UpstreamAnswer } from './tape.ts';

/** Passes an answer on, and shows each chunk to a callback. */
export class ShownAnswer extends Readable implements UpstreamAnswer {
  readonly statusCode: number | undefined;
  readonly headers: UpstreamAnswer['headers'];
  readonly #source: UpstreamAnswer;

  constructor(source: UpstreamAnswer, onChunk: (chunk: Buffer) => void) {
    super();
    this.#source = source;
    this.statusCode = source.statusCode;
    this.headers = source.headers;
    source.on('data', (chunk: Buffer) => {
      onChunk(chunk);
      if (!this.push(chunk)) source.pause();
    });
    source.once('end', () => this.push(null));
    source.once('error', (error) => this.destroy(error));
    source.once('close', () => {
      if (!source.readableEnded) this.destroy();
    });
  }

  get complete(): boolean {
    return this.#source.complete;
  }

  override _read(): void {
    this.#source.resume();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    // A connection whose answer was read to the end returns to its pool.
    if (!this.#source.readableEnded) this.#source.destroy();
    done(error);
  }
}
