/** One operation on one connection of the channel (io): connect, request, reply, then frames or bytes. */
import type { Duplex } from 'node:stream';
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import type { Dial } from './dial.ts';
import { GuestError } from './errors.ts';
import { encodeFrames, FRAME, type Frame, frameHeader } from './framing.ts';
import { GUEST_LIMITS, PROTOCOL_VERSION } from './limits.ts';
import { guestError, type Parsed } from './protocol.ts';
import { OperationSession, type SessionEvent } from './session.ts';

export interface OperationOptions {
  readonly dial: Dial;
  readonly clock: Clock;
  /** The request's name in messages, for example `exec ls`. */
  readonly what: string;
  readonly request: Readonly<Record<string, unknown>>;
  /** A script, whose size the request announces. */
  readonly body?: Uint8Array | undefined;
  readonly replyMsMax?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Returns the error code of a lost connection. Default: `connection_lost`. */
  readonly lostCode?: (() => 'connection_lost' | 'suspended') | undefined;
}

export interface OperationHandlers {
  onFrame?(frame: Frame): void;
  onBytes?(bytes: Buffer): void;
  /** Called once at the end of the stream, with an error or `null`; also if it ended before `begin`. */
  onEnd(error: GuestError | null): void;
}

export class Operation {
  readonly #options: OperationOptions;
  /** Undefined while dialing. */
  #stream: Duplex | undefined;
  readonly #dialing = new AbortController();
  readonly #opened = Promise.withResolvers<void>();
  readonly #session = new OperationSession();
  readonly #reply = Promise.withResolvers<unknown>();
  readonly #closed = Promise.withResolvers<void>();
  #handlers: OperationHandlers | undefined;
  #ended: { readonly error: GuestError | null } | undefined;
  #stopTimer: () => void;
  #stopListening: () => void = () => undefined;

  constructor(options: OperationOptions) {
    this.#options = options;
    this.#reply.promise.catch((error: unknown) => ignore(error, 'the caller of reply gets it'));
    this.#stopTimer = this.#limit(GUEST_LIMITS.handshakeMsMax, 'did not accept a connection');
    this.#listen(options.signal);
    if (this.#ended === undefined) this.#dial();
    else this.#closed.resolve();
  }

  /** The reply, validated by `read`. Nothing after it is read until `begin` attaches handlers. */
  async reply<T>(read: (fields: unknown) => Parsed<T>): Promise<T> {
    const parsed = read(await this.#reply.promise);
    if (parsed.ok) return parsed.value;
    const error = guestError('protocol_error', `${this.#options.what}: reply: ${parsed.reason}`);
    this.destroy(error);
    throw error;
  }

  /** True once the reply or the end has arrived. */
  get answered(): boolean {
    const { state } = this.#session;
    return this.#ended !== undefined || (state !== 'handshake' && state !== 'waiting-reply');
  }

  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  begin(mode: 'frames' | 'raw', handlers: OperationHandlers): void {
    this.#handlers = handlers;
    if (this.#session.state === 'held') this.#handle(() => this.#session.begin(mode));
    if (this.#ended !== undefined) handlers.onEnd(this.#ended.error);
    else this.resume();
  }

  pause(): void {
    this.#stream?.pause();
  }

  resume(): void {
    this.#stream?.resume();
  }

  /** The error of a connection that ended too early. */
  lostError(cause?: Error): GuestError {
    if (cause instanceof GuestError) return cause;
    const { what, lostCode } = this.#options;
    const code = lostCode?.() ?? 'connection_lost';
    const text = code === 'suspended' ? 'the sandbox was paused or saved' : 'the connection to the guest ended';
    return guestError(code, `${what}: ${text}`, cause);
  }

  /** Sends `content` as frames of `kind`; resolves when the connection accepts more. */
  send(kind: number, content: Uint8Array): Promise<void> {
    return this.#write(encodeFrames(kind, content));
  }

  /** Sends the empty frame that ends a stream of `kind`. */
  sendEnd(kind: number): Promise<void> {
    return this.#write([frameHeader(kind, 0)]);
  }

  sendRaw(bytes: Uint8Array): Promise<void> {
    return this.#write([Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)]);
  }

  /** Closes our direction. */
  endWrite(): void {
    this.#stream?.end();
  }

  /** Restarts the reply timeout, for requests whose content takes time to send. */
  expectReplyWithin(ms: number): void {
    if (!this.answered) this.#restartTimer(ms, 'did not answer');
  }

  /** Drops the connection; waiting calls fail with `error`. Idempotent. */
  destroy(error: GuestError | null = null): void {
    this.#finish(error ?? guestError('cancelled', `${this.#options.what}: dropped`));
    if (this.#stream === undefined) this.#dialing.abort();
    else this.#stream.destroy();
  }

  #dial(): void {
    const failed = (error: unknown): void => {
      this.#finish(this.lostError(error instanceof Error ? error : new Error(String(error))));
      this.#closed.resolve();
    };
    try {
      const dialled = this.#options.dial(this.#dialing.signal);
      if (dialled instanceof Promise) dialled.then((stream) => this.#open(stream), failed);
      else this.#open(dialled);
    } catch (error) {
      failed(error);
    }
  }

  #open(stream: Duplex): void {
    stream.on('error', (error) => this.#finish(this.lostError(error)));
    stream.on('close', () => {
      if (this.#ended === undefined) this.#finish(this.lostError());
      this.#closed.resolve();
    });
    this.#stream = stream;
    if (this.#ended !== undefined || stream.destroyed) {
      // The stream was destroyed while dialing, or is already closed, and then emits no more events.
      if (this.#ended === undefined) this.#finish(this.lostError());
      stream.destroy();
      this.#closed.resolve();
      return;
    }
    // A stream of another library may close our direction with the guest's.
    stream.allowHalfOpen = true;
    stream.on('data', (data: Buffer) => this.#handle(() => this.#session.receive(data)));
    stream.on('end', () => this.#end());
    this.#ask(stream);
    this.#opened.resolve();
  }

  #listen(signal: AbortSignal | undefined): void {
    if (signal === undefined) return;
    const abort = (): void => {
      this.destroy(guestError('cancelled', `${this.#options.what}: cancelled`, signal.reason));
    };
    if (signal.aborted) {
      abort();
      return;
    }
    signal.addEventListener('abort', abort, { once: true });
    this.#stopListening = () => signal.removeEventListener('abort', abort);
  }

  /** Sends the request immediately: the channel forwards what follows `CONNECT` to the guest. */
  #ask(stream: Duplex): void {
    const { request, body } = this.#options;
    const announced = body === undefined ? {} : { bodyBytes: body.length };
    const whole = Buffer.from(JSON.stringify({ v: PROTOCOL_VERSION, ...request, ...announced }));
    const content = body ?? new Uint8Array();
    if (Math.max(whole.length, content.length) > GUEST_LIMITS.bodyBytesMax) {
      const text = `${this.#options.what}: the request has more than ${GUEST_LIMITS.bodyBytesMax} bytes`;
      this.destroy(guestError('too_large', text));
      return;
    }
    if (whole.length <= GUEST_LIMITS.requestLineBytesMax) {
      stream.write(Buffer.concat([whole, NEWLINE]));
    } else {
      const { op, ...fields } = request;
      const more = Buffer.from(JSON.stringify(fields));
      const line = { v: PROTOCOL_VERSION, op, moreBytes: more.length, ...announced };
      stream.write(`${JSON.stringify(line)}\n`);
      for (const part of encodeFrames(FRAME.body, more)) stream.write(part);
    }
    for (const part of encodeFrames(FRAME.body, content)) stream.write(part);
  }

  #handle(produce: () => SessionEvent[]): void {
    for (const event of produce()) this.#take(event);
  }

  #take(event: SessionEvent): void {
    switch (event.type) {
      case 'connected':
        this.#restartTimer(this.#options.replyMsMax ?? GUEST_LIMITS.replyMsMax, 'did not answer');
        break;
      case 'reply':
        this.#stopTimer();
        if (event.reply.ok) {
          this.pause();
          this.#reply.resolve(event.reply.fields);
        } else {
          this.destroy(event.reply.error);
        }
        break;
      case 'frame':
        this.#handlers?.onFrame?.(event.frame);
        break;
      case 'bytes':
        this.#handlers?.onBytes?.(event.bytes);
        break;
      case 'broken':
        this.destroy(guestError('protocol_error', `${this.#options.what}: ${event.reason}`));
    }
  }

  /** The guest has closed its direction. For raw bytes, ours may stay open. */
  #end(): void {
    if (this.#session.state === 'raw' || this.#session.state === 'frames') this.#finish(null);
    else if (this.#session.state !== 'held') this.#finish(this.lostError());
    if (this.#session.state !== 'raw') this.endWrite();
  }

  #finish(error: GuestError | null): void {
    if (this.#ended !== undefined) return;
    this.#ended = { error };
    this.#stopTimer();
    this.#stopListening();
    this.#opened.resolve();
    if (error !== null) this.#reply.reject(error);
    this.#handlers?.onEnd(error);
  }

  async #write(parts: readonly Buffer[]): Promise<void> {
    if (this.#stream === undefined) await this.#opened.promise;
    const stream = this.#stream;
    const last = parts.at(-1);
    if (last === undefined || stream === undefined || stream.destroyed) return;
    for (const part of parts.slice(0, -1)) stream.write(part);
    await new Promise<void>((resolve) => {
      // A failed write ends the connection, which `onEnd` reports.
      stream.write(last, () => resolve());
    });
  }

  #restartTimer(ms: number, text: string): void {
    this.#stopTimer();
    this.#stopTimer = this.#limit(ms, text);
  }

  #limit(ms: number, text: string): () => void {
    const { clock, what } = this.#options;
    return clock.after(ms, () => this.destroy(guestError('timeout', `${what}: the guest ${text} within ${ms} ms`)));
  }
}

const NEWLINE = Buffer.from('\n');
