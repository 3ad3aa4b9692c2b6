import { Readable } from 'node:stream';
import type { UpstreamAnswer } from './tape.ts';

/** Plays a kept answer as if its model server sent it now. */
export class PlayedAnswer extends Readable implements UpstreamAnswer {
  readonly statusCode: number;
  readonly headers: UpstreamAnswer['headers'];
  complete = false;
  readonly #chunks: Iterator<string | Buffer>;
  readonly #isCut: boolean;

  constructor(answer: {
    readonly status: number;
    readonly contentType: string | undefined;
    readonly chunks: Iterator<string | Buffer>;
    readonly isCut: boolean;
  }) {
    super();
    const { status, contentType, chunks, isCut } = answer;
    this.statusCode = status;
    this.headers = contentType === undefined ? {} : { 'content-type': contentType };
    this.#chunks = chunks;
    this.#isCut = isCut;
  }

  override _read(): void {
    const next = this.#chunks.next();
    if (next.done !== true) this.push(next.value);
    else if (this.#isCut) this.destroy(new Error('the recorded answer ends here'));
    else {
      this.complete = true;
      this.push(null);
    }
  }
}
