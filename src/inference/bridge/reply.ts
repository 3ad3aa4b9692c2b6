/** Writes the answer to one request (io). */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../../base/clock.ts';
import { type DropLimits, dropInput } from '../../base/drop-input.ts';
import type { Refusal } from '../../base/http/refusal.ts';
import { IdleTimer } from '../../base/idle-timer.ts';
import { ignore } from '../../base/ignore.ts';
import type { Dialect } from './dialect/dialect.ts';

export class Reply {
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #dialect: Dialect;
  #keepAlive: IdleTimer | undefined;
  #streaming = false;
  /** Returns true if a keep-alive or an error event may follow the bytes sent so far. */
  #atBoundary: () => boolean = () => true;
  #firstByteAtMs: number | null = null;
  #refusal: Refusal | null = null;
  #failure: ((refusal: Refusal) => string) | undefined;
  #lingering = false;
  readonly #clock: Clock;
  readonly #limits: DropLimits;

  constructor(
    request: IncomingMessage,
    response: ServerResponse,
    context: { readonly dialect: Dialect; readonly clock: Clock; readonly limits: DropLimits },
  ) {
    const { dialect, clock, limits } = context;
    this.#limits = limits;
    this.#request = request;
    this.#response = response;
    this.#dialect = dialect;
    this.#clock = clock;
    response.on('error', (error) => ignore(error, 'the guest disconnected during its answer'));
  }

  /** Status sent; 0 before. */
  get status(): number {
    return this.#response.headersSent ? this.#response.statusCode : 0;
  }

  get streaming(): boolean {
    return this.#streaming;
  }

  get refusal(): Refusal | null {
    return this.#refusal;
  }

  /** True if the answer is complete and only the rest of the request is being dropped. */
  get lingering(): boolean {
    return this.#lingering;
  }

  /** Time of the first byte of content, not counting keep-alives. */
  get firstByteAtMs(): number | null {
    return this.#firstByteAtMs;
  }

  /**
   * Sends a keep-alive after each silence of `intervalMs`, even before the upstream answers, if the dialect has one.
   */
  keepAlive(intervalMs: number): void {
    if (this.#dialect.keepAlive === '') return;
    this.#keepAlive = new IdleTimer(this.#clock, intervalMs, () => {
      const response = this.#response;
      if (response.writableEnded || response.destroyed || response.writableNeedDrain) return;
      if (!this.#streaming) this.startStream({});
      if (this.#atBoundary()) response.write(this.#dialect.keepAlive);
    });
  }

  /** Sends the head of a stream of events. A second call has no effect. */
  startStream(headers: Readonly<Record<string, string>>, atBoundary?: () => boolean): void {
    if (atBoundary !== undefined) this.#atBoundary = atBoundary;
    if (this.#streaming) return;
    this.#streaming = true;
    const { 'content-length': _, ...rest } = headers;
    this.#response.writeHead(200, { 'cache-control': 'no-cache', 'content-type': this.#dialect.streamType, ...rest });
    this.#response.flushHeaders();
  }

  header(name: string, value: string): void {
    if (!this.#response.headersSent) this.#response.setHeader(name, value);
  }

  /** From now on, reports errors in the stream by `write`. */
  onFailure(write: ((refusal: Refusal) => string) | undefined): void {
    this.#failure = write;
  }

  start(status: number, headers: Readonly<Record<string, string>>): void {
    this.#keepAlive?.stop();
    this.#response.writeHead(status, headers);
  }

  /** @returns false if the guest must read first; see `onDrain` */
  write(bytes: Buffer): boolean {
    this.#firstByteAtMs ??= this.#clock.now();
    this.#keepAlive?.touch();
    return this.#response.write(bytes);
  }

  onDrain(run: () => void): void {
    this.#response.once('drain', run);
  }

  end(bytes?: Buffer): void {
    this.stop();
    if (bytes !== undefined) this.#firstByteAtMs ??= this.#clock.now();
    if (bytes === undefined) this.#response.end();
    else this.#response.end(bytes);
  }

  json(status: number, value: unknown): void {
    this.jsonText(status, JSON.stringify(value));
  }

  jsonText(status: number, json: string): void {
    this.#send(status, json, {});
  }

  text(status: number, contentType: string, body: string): void {
    this.#send(status, body, { 'content-type': contentType });
  }

  /**
   * Reports an error in the form that the answer's state allows; the answer never looks complete.
   * @param more additional headers, if the head is not sent yet
   */
  fail(refusal: Refusal, more: Readonly<Record<string, string>> = {}): void {
    const response = this.#response;
    this.stop();
    if (response.writableEnded || response.destroyed) return;
    this.#refusal = refusal;
    if (this.#streaming) {
      // A blank line ends a truncated event.
      const gap = this.#atBoundary() ? '' : '\n\n';
      response.end(gap + (this.#failure ?? this.#dialect.errorEvent)(refusal));
    } else if (response.headersSent) {
      // A truncated document: only a broken connection reveals the error.
      response.destroy();
    } else {
      const headers: Record<string, string> = { ...more };
      if (refusal.retryAfterSeconds !== undefined) {
        headers['retry-after'] = String(refusal.retryAfterSeconds);
        headers['x-should-retry'] = 'true';
      }
      if (refusal.isFinal === true) headers['x-should-retry'] = 'false';
      this.#send(this.#dialect.status(refusal), this.#dialect.error(refusal), headers);
    }
  }

  destroy(): void {
    this.stop();
    this.#response.destroy();
  }

  stop(): void {
    this.#keepAlive?.stop();
  }

  #send(status: number, body: string, headers: Record<string, string>): void {
    const early = !this.#request.complete;
    this.#response.writeHead(status, {
      'content-type': 'application/json',
      ...headers,
      'content-length': String(Buffer.byteLength(body)),
      // The rest of an unread body must not be parsed as another request.
      ...(early ? { connection: 'close' } : {}),
    });
    if (!early) {
      this.#response.end(body);
      return;
    }
    this.#response.write(body);
    this.#lingering = true;
    const context = { clock: this.#clock, limits: this.#limits };
    dropInput(this.#request, context, () => this.#response.end());
  }
}
