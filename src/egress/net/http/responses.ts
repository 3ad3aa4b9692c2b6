/**
 * Finds the end of each answer of an upstream, so that an answer of ours is never sent inside one. Judges and changes
 * nothing. After an answer that it can't follow, it never reports an end. Pure.
 */
import { HttpFramer } from './framer.ts';
import { parseStatus, RESPONSE_RULES, responseFraming } from './response-head.ts';

/** Limit of requests that wait for an answer; beyond, no end is found any more. */
const PIPELINED_MAX = 1024;

export class HttpResponses {
  readonly #asked: string[] = [];
  /** Stopped after an answer without a findable end. */
  readonly #framer = new HttpFramer(RESPONSE_RULES);

  /** Call when a request with this method was passed on. */
  expect(method: string): void {
    if (this.#asked.length >= PIPELINED_MAX) this.#framer.stop();
    else this.#asked.push(method);
  }

  /** Call if the last request will stay incomplete: expects no answer to it, unless that has begun. */
  withdraw(): void {
    if (this.isBetween || this.#asked.length > 1) this.#asked.pop();
  }

  /** True if every request has its whole answer. */
  get isComplete(): boolean {
    return this.#asked.length === 0 && this.isBetween;
  }

  get isBetween(): boolean {
    return this.#framer.isAtStart;
  }

  push(bytes: Uint8Array): void {
    for (const frame of this.#framer.frames(bytes)) {
      if (frame.kind === 'head') this.#onHead(frame.lines);
      else if (frame.kind === 'end') this.#asked.shift();
    }
  }

  #onHead([statusLine = '', ...fields]: readonly string[]): void {
    const status = parseStatus(statusLine);
    const [method] = this.#asked;
    if (status === undefined || status === 101 || method === undefined) this.#framer.stop();
    else if (status >= 200) {
      const framing = responseFraming(status, method, fields);
      if (framing === undefined || framing.kind === 'until_close') this.#framer.stop();
      else if (framing.kind === 'none') this.#asked.shift();
      else this.#framer.readBody(framing);
    }
  }
}
