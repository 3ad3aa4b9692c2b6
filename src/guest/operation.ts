/** One operation on one connection of the channel (io): connect, ask, answer, then frames or bytes. */
import { connect, type Socket } from 'node:net';
import type { Clock } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import type { GuestError } from './errors.ts';
import { encodeFrames, FRAME, type Frame, frameHeader } from './framing.ts';
import { LIMITS, PORTS, PROTOCOL_VERSION } from './limits.ts';
import { guestError, type Parsed } from './protocol.ts';
import { OperationSession, type SessionEvent } from './session.ts';

export interface OperationOptions {
  readonly channelPath: string;
  readonly clock: Clock;
  /** What the request is called in messages, e.g. `exec ls`. */
  readonly what: string;
  readonly request: Readonly<Record<string, unknown>>;
  /** A script; announced in the request. */
  readonly body?: Uint8Array | undefined;
  readonly replyMsMax?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface OperationHandlers {
  onFrame?(frame: Frame): void;
  onBytes?(bytes: Buffer): void;
  /** The stream is over: in order (null) or not. Called once, also when it was over before `begin`. */
  onEnd(error: GuestError | null): void;
}

export class Operation {
  readonly #options: OperationOptions;
  readonly #socket: Socket;
  readonly #session = new OperationSession();
  readonly #reply = Promise.withResolvers<unknown>();
  readonly #closed = Promise.withResolvers<void>();
  #handlers: OperationHandlers | undefined;
  #ended: { readonly error: GuestError | null } | undefined;
  #stopTimer: () => void;
  #stopListening: () => void = () => undefined;

  constructor(options: OperationOptions) {
    this.#options = options;
    this.#reply.promise.catch((error: unknown) => ignore(error, 'told to who awaits the reply'));
    this.#socket = connect({ path: options.channelPath, allowHalfOpen: true });
    this.#stopTimer = this.#limit(LIMITS.handshakeMsMax, 'did not accept a connection');
    this.#socket.on('data', (data) => this.#handle(() => this.#session.receive(data)));
    this.#socket.on('error', (error) => this.#lost(error));
    this.#socket.on('end', () => this.#end());
    this.#socket.on('close', () => {
      this.#lost(undefined);
      this.#closed.resolve();
    });
    this.#socket.write(`CONNECT ${PORTS.operations}\n`);
    this.#listen(options.signal);
    if (!this.#socket.destroyed) this.#ask();
  }

  /** The answer, checked by `read`. Handlers are attached by `begin` before more is read. */
  async reply<T>(read: (fields: unknown) => Parsed<T>): Promise<T> {
    const parsed = read(await this.#reply.promise);
    if (parsed.ok) return parsed.value;
    const error = guestError('protocol_error', `${this.#options.what}: reply: ${parsed.reason}`);
    this.destroy(error);
    throw error;
  }

  /** True once the answer or the end has come. */
  get answered(): boolean {
    return this.#session.state !== 'handshake' && this.#session.state !== 'waiting-reply';
  }

  /** Resolves when the socket is gone. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  begin(mode: 'frames' | 'raw', handlers: OperationHandlers): void {
    this.#handlers = handlers;
    if (this.#session.state === 'held') this.#handle(() => this.#session.begin(mode));
    if (this.#ended !== undefined) handlers.onEnd(this.#ended.error);
    else this.#socket.resume();
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Sends `content` as frames of `kind`; resolves when the connection takes more. */
  send(kind: number, content: Uint8Array): Promise<void> {
    return this.#write(encodeFrames(kind, content));
  }

  /** The empty frame that ends a stream of `kind`. */
  sendEnd(kind: number): Promise<void> {
    return this.#write([frameHeader(kind, 0)]);
  }

  sendRaw(bytes: Uint8Array): Promise<void> {
    return this.#write([Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)]);
  }

  /** Ends our direction. */
  endWrite(): void {
    this.#socket.end();
  }

  /** From now until the answer the guest has `ms`; for requests whose content takes its time. */
  expectReplyWithin(ms: number): void {
    if (!this.answered) this.#restartTimer(ms, 'did not answer');
  }

  /** Drops the connection; whatever still waits fails with `error`. Idempotent. */
  destroy(error: GuestError | null = null): void {
    this.#finish(error ?? guestError('cancelled', `${this.#options.what}: dropped`));
    this.#socket.destroy();
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

  /** The request goes out at once: the channel keeps what follows `CONNECT` for the guest. */
  #ask(): void {
    const { request, body } = this.#options;
    const announced = body === undefined ? {} : { bodyBytes: body.length };
    const whole = Buffer.from(JSON.stringify({ v: PROTOCOL_VERSION, ...request, ...announced }));
    const content = body ?? new Uint8Array();
    if (Math.max(whole.length, content.length) > LIMITS.bodyBytesMax) {
      const text = `${this.#options.what}: more than ${LIMITS.bodyBytesMax} bytes in a request`;
      this.destroy(guestError('too_large', text));
      return;
    }
    if (whole.length <= LIMITS.requestLineBytesMax) {
      this.#socket.write(Buffer.concat([whole, NEWLINE]));
    } else {
      const { op, ...fields } = request;
      const more = Buffer.from(JSON.stringify(fields));
      const line = { v: PROTOCOL_VERSION, op, moreBytes: more.length, ...announced };
      this.#socket.write(`${JSON.stringify(line)}\n`);
      for (const part of encodeFrames(FRAME.body, more)) this.#socket.write(part);
    }
    for (const part of encodeFrames(FRAME.body, content)) this.#socket.write(part);
  }

  #handle(produce: () => SessionEvent[]): void {
    for (const event of produce()) this.#take(event);
  }

  #take(event: SessionEvent): void {
    switch (event.type) {
      case 'connected':
        this.#restartTimer(this.#options.replyMsMax ?? LIMITS.replyMsMax, 'did not answer');
        break;
      case 'reply':
        this.#stopTimer();
        if (event.reply.ok) {
          this.#socket.pause();
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

  /** The guest has ended its direction. For raw bytes ours may go on. */
  #end(): void {
    if (this.#session.state === 'raw' || this.#session.state === 'frames') this.#finish(null);
    else if (this.#session.state !== 'held') this.#lost(undefined);
    if (this.#session.state !== 'raw') this.#socket.end();
  }

  #lost(cause: Error | undefined): void {
    const text = `${this.#options.what}: the connection to the guest ended`;
    this.#finish(guestError('connection_lost', text, cause));
  }

  #finish(error: GuestError | null): void {
    if (this.#ended !== undefined) return;
    this.#ended = { error };
    this.#stopTimer();
    this.#stopListening();
    if (error !== null) this.#reply.reject(error);
    this.#handlers?.onEnd(error);
  }

  #write(parts: readonly Buffer[]): Promise<void> {
    const last = parts.at(-1);
    if (last === undefined || this.#socket.destroyed) return Promise.resolve();
    for (const part of parts.slice(0, -1)) this.#socket.write(part);
    return new Promise((resolve) => {
      // A failed write ends the connection, which is told by `onEnd`.
      this.#socket.write(last, () => resolve());
    });
  }

  #restartTimer(ms: number, text: string): void {
    this.#stopTimer();
    this.#stopTimer = this.#limit(ms, text);
  }

  #limit(ms: number, text: string): () => void {
    const { clock, what } = this.#options;
    return clock.after(ms, () =>
      this.destroy(guestError('timeout', `${what}: the guest ${text} within ${ms} ms`)),
    );
  }
}

const NEWLINE = Buffer.from('\n');
