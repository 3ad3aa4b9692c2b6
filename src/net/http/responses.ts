/**
 * Where the answers of an upstream end (RFC 9112 section 6.3), so that an answer of ours never lands inside
 * one of them. It judges nothing and changes nothing; what it can't follow it calls endless. Pure.
 */
const HEAD_BYTES_MAX = 64 * 1024;
const LINE_BYTES_MAX = 4 * 1024;
/** Requests that wait for an answer; with more of them nothing is followed any longer. */
const PIPELINED_MAX = 1024;

type Phase = 'head' | 'length' | 'chunk_size' | 'chunk_data' | 'chunk_end' | 'trailer' | 'endless';

export class HttpResponses {
  /** Methods of requests that wait for their answer. */
  readonly #asked: string[] = [];
  #phase: Phase = 'head';
  /** Of the line under way. */
  #partial = '';
  #lines: string[] = [];
  #headBytes = 0;
  #bytesLeft = 0;

  /** A request with this method was passed on. */
  expect(method: string): void {
    if (this.#asked.length >= PIPELINED_MAX) this.#phase = 'endless';
    if (this.#phase !== 'endless') this.#asked.push(method);
  }

  /** The last request will never be whole: no answer to it is waited for, unless it has begun. */
  withdraw(): void {
    if (this.isBetween || this.#asked.length > 1) this.#asked.pop();
  }

  /** Every request has its whole answer. */
  get isComplete(): boolean {
    return this.#asked.length === 0 && this.isBetween;
  }

  get isBetween(): boolean {
    return this.#phase === 'head' && this.#headBytes === 0;
  }

  push(bytes: Uint8Array): void {
    let rest = bytes;
    while (rest.length > 0 && this.#phase !== 'endless') {
      const isBody = this.#phase === 'length' || this.#phase === 'chunk_data';
      rest = rest.subarray(isBody ? this.#takeBody(rest) : this.#takeLine(rest));
    }
  }

  #takeBody(bytes: Uint8Array): number {
    const taken = Math.min(this.#bytesLeft, bytes.length);
    this.#bytesLeft -= taken;
    if (this.#bytesLeft > 0) return taken;
    if (this.#phase === 'length') this.#end();
    else this.#phase = 'chunk_end';
    return taken;
  }

  #takeLine(bytes: Uint8Array): number {
    const feed = bytes.indexOf(0x0a);
    const taken = feed < 0 ? bytes.length : feed + 1;
    this.#headBytes += taken;
    const isLong =
      this.#phase === 'head' ? this.#headBytes > HEAD_BYTES_MAX : taken > LINE_BYTES_MAX;
    if (isLong || this.#partial.length > HEAD_BYTES_MAX) {
      this.#phase = 'endless';
      return taken;
    }
    this.#partial += Buffer.from(bytes.buffer, bytes.byteOffset, taken).toString('latin1');
    if (feed < 0) return taken;
    const line = this.#partial.replace(/\r?\n$/, '');
    this.#partial = '';
    this.#onLine(line);
    return taken;
  }

  #onLine(line: string): void {
    if (this.#phase === 'head') {
      if (line === '') this.#onHead();
      else this.#lines.push(line);
    } else if (this.#phase === 'chunk_size') {
      const size = /^([0-9a-f]{1,12})\s*(?:;|$)/i.exec(line)?.[1];
      this.#bytesLeft = size === undefined ? 0 : Number.parseInt(size, 16);
      if (size === undefined) this.#phase = 'endless';
      else this.#phase = this.#bytesLeft === 0 ? 'trailer' : 'chunk_data';
    } else if (this.#phase === 'chunk_end') this.#phase = line === '' ? 'chunk_size' : 'endless';
    else if (this.#phase === 'trailer' && line === '') this.#end();
  }

  #onHead(): void {
    const [statusLine = '', ...fields] = this.#lines;
    const status = Number(/^HTTP\/1\.[01] (\d{3})(?: |$)/.exec(statusLine)?.[1]);
    this.#lines = [];
    this.#headBytes = 0;
    const [method] = this.#asked;
    if (!(status >= 100) || status === 101 || method === undefined) this.#phase = 'endless';
    else if (status >= 200) this.#onFinal(status, method, fields);
  }

  #onFinal(status: number, method: string, fields: readonly string[]): void {
    const valuesOf = (name: RegExp): string[] =>
      fields.flatMap((field) => {
        const [, value] = name.exec(field) ?? [];
        return value === undefined ? [] : [value.trim().toLowerCase()];
      });
    const codings = valuesOf(/^transfer-encoding:(.*)$/i);
    const lengths = valuesOf(/^content-length:(.*)$/i);
    if (method === 'HEAD' || status === 204 || status === 304) this.#end();
    else if (codings.length === 1 && codings[0] === 'chunked' && lengths.length === 0)
      this.#phase = 'chunk_size';
    else if (codings.length === 0 && lengths.length === 1 && /^\d{1,15}$/.test(lengths[0] ?? '')) {
      this.#bytesLeft = Number(lengths[0]);
      this.#phase = 'length';
      if (this.#bytesLeft === 0) this.#end();
    } else this.#phase = 'endless';
  }

  #end(): void {
    this.#asked.shift();
    this.#phase = 'head';
    this.#headBytes = 0;
  }
}
