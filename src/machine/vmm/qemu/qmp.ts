/**
 * QMP, QEMU's control protocol (docs/interop/qmp-spec.rst): one JSON object per line. The server greets, the client
 * leaves negotiation with `qmp_capabilities`, then each command has one answer with its id; events come at any time.
 *
 * `QmpDecoder` is pure; `QmpClient` drives it over a stream. A guest may have compromised QEMU, so its output is
 * bounded and checked.
 */

import { randomInt } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { Clock } from '../../../base/clock.ts';
import { LoopTime } from '../../../base/fairness/loop-time.ts';
import { ignore, tryOr } from '../../../base/ignore.ts';
import { Listeners } from '../../../base/listeners.ts';
import type { BucketLimit } from '../../../base/token-bucket.ts';
import { FdChannel } from '../../../sys/socket.ts';
import { VmmError } from '../errors.ts';

/** Far above the answers to our commands. */
export const QMP_LINE_BYTES_MAX = 256 * 1024;
/** Maximum number of commands without an answer. */
const QMP_PENDING_MAX = 32;
const QMP_COMMAND_MS_MAX = 10_000;
/** Event loop time for one VMM's messages, in milliseconds; beyond it, they wait. Usual is 1 ms per second. */
const QMP_LOOP_TIME: BucketLimit = { size: 100, refillPerSecond: 50 };

export type QmpMessage =
  | { readonly kind: 'greeting' }
  | { readonly kind: 'return'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'error'; readonly id: number; readonly description: string }
  | { readonly kind: 'event'; readonly event: QmpEvent };

export interface QmpEvent {
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
}

type QmpDecoded =
  | { readonly ok: true; readonly messages: readonly QmpMessage[] }
  | { readonly ok: false; readonly reason: string };

/** Chunk boundaries do not matter. After `ok: false` the stream is unusable. */
export class QmpDecoder {
  #rest: Buffer[] = [];
  #restBytes = 0;

  receive(bytes: Uint8Array): QmpDecoded {
    const messages: QmpMessage[] = [];
    let from = 0;
    for (let to = bytes.indexOf(NEWLINE); to >= 0; to = bytes.indexOf(NEWLINE, from)) {
      const line = Buffer.concat([...this.#rest, bytes.subarray(from, to)]);
      this.#rest = [];
      this.#restBytes = 0;
      from = to + 1;
      if (line.length > QMP_LINE_BYTES_MAX) return TOO_LONG;
      const text = line.toString('utf8').trim();
      if (text === '') continue;
      const message = parseMessage(text);
      if (message === undefined) return { ok: false, reason: `not QMP: ${text.slice(0, 80)}` };
      messages.push(message);
    }
    if (from < bytes.length) {
      this.#rest.push(Buffer.from(bytes.subarray(from)));
      this.#restBytes += bytes.length - from;
    }
    return this.#restBytes > QMP_LINE_BYTES_MAX ? TOO_LONG : { ok: true, messages };
  }
}

const NEWLINE = 10;
const UNREAD_ID = 0;
/** Far above the ids of a first owner. */
const ADOPTED_ID_MIN = 2 ** 40;
const TOO_LONG = { ok: false, reason: `a line is longer than ${QMP_LINE_BYTES_MAX} bytes` } as const;

function parseMessage(text: string): QmpMessage | undefined {
  const value: unknown = tryOr(undefined, 'not JSON', () => JSON.parse(text));
  if (!isRecord(value)) return undefined;
  if (isRecord(value['QMP'])) return { kind: 'greeting' };
  if (typeof value['event'] === 'string') {
    const data = isRecord(value['data']) ? value['data'] : {};
    return { kind: 'event', event: { name: value['event'], data } };
  }
  // Only a command that QEMU could not read has an answer without one.
  const id = value['id'] ?? (isRecord(value['error']) ? UNREAD_ID : undefined);
  if (typeof id !== 'number') return undefined;
  if ('return' in value) return { kind: 'return', id, value: value['return'] };
  if (!isRecord(value['error'])) return undefined;
  return { kind: 'error', id, description: String(value['error']['desc'] ?? 'unknown error') };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The socket's descriptor, for sendmsg(2): Node can't pass descriptors itself. */
function handleFd(stream: Duplex): number | undefined {
  const { _handle: handle } = stream as { _handle?: { fd?: number } };
  return handle?.fd;
}

interface Pending {
  readonly command: string;
  resolve(value: unknown): void;
  reject(error: VmmError): void;
}

export class QmpClient {
  readonly #stream: Duplex;
  readonly #clock: Clock;
  readonly #decoder = new QmpDecoder();
  readonly #loopTime: LoopTime;
  /** Released sets of descriptors. */
  readonly #released = new Set<number>();
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Listeners<QmpEvent>();
  /** Rejects pending waits for an event. */
  readonly #awaited = new Set<(failure: VmmError) => void>();
  readonly #greeted = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<VmmError>();
  #nextId = 1;
  #failure: VmmError | undefined;

  constructor(stream: Duplex, clock: Clock) {
    this.#stream = stream;
    this.#clock = clock;
    this.#loopTime = new LoopTime(QMP_LOOP_TIME, clock);
    void this.#greeted.promise.catch((error: unknown) => ignore(error, 'no negotiation is waiting'));
    stream.on('data', (bytes: Buffer) => {
      this.#loopTime.run(() => this.#receive(bytes));
      this.#pace();
    });
    stream.on('error', (error) => this.#fail('vm_gone', 'the control connection broke', error));
    stream.on('close', () => this.#fail('vm_gone', 'the control connection ended'));
    stream.on('end', () => this.#fail('vm_gone', 'the control connection ended'));
  }

  /** Resolves with the reason when no command can be sent any more. */
  get closed(): Promise<VmmError> {
    return this.#closed.promise;
  }

  /** @returns a function that stops listening */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    return this.#listeners.listen(listener);
  }

  /**
   * Waits for the greeting and leaves negotiation mode.
   * @throws VmmError `vmm_timeout`, `vm_gone`, `vmm_command_failed`
   */
  async negotiate(timeoutMs: number): Promise<void> {
    await this.#withDeadline(this.#greeted.promise, timeoutMs, 'the greeting');
    await this.execute('qmp_capabilities');
  }

  /**
   * Takes over a connection whose owner was killed, perhaps amid a command: 0xff, which no JSON has, ends that (QEMU,
   * qobject/json-lexer.c). Answers to the old owner have other ids.
   * @throws VmmError as `execute`
   */
  async takeOver(): Promise<void> {
    this.#nextId = ADOPTED_ID_MIN + randomInt(ADOPTED_ID_MIN);
    this.#stream.write(Buffer.from([0xff, NEWLINE]));
    await this.execute('query-status');
  }

  /** @throws VmmError `vmm_command_failed`, `vmm_timeout`, `vm_gone` */
  async execute(
    command: string,
    args?: Readonly<Record<string, unknown>>,
    timeoutMs = QMP_COMMAND_MS_MAX,
  ): Promise<unknown> {
    return this.#execute(command, args, timeoutMs, (text) => void this.#stream.write(text));
  }

  /**
   * Gives QEMU a duplicate of `fd`, which other commands then know by `name`.
   * @throws VmmError as `execute`
   */
  async passFd(name: string, fd: number): Promise<void> {
    await this.#executeWithFd('getfd', { fdname: name }, fd);
  }

  /**
   * Gives QEMU a duplicate of `fd`, which it can then open at the path in the answer, with the same access only. Call
   * `release` when it no longer needs it: QEMU closes the duplicate after the next `cont`.
   * @throws VmmError as `execute`
   */
  async addFd(fd: number): Promise<{ readonly path: string; release(): void }> {
    const answer = await this.#executeWithFd('add-fd', {}, fd);
    const set = (answer as { 'fdset-id'?: unknown } | null)?.['fdset-id'];
    if (typeof set !== 'number') throw new VmmError('vmm_command_failed', 'QEMU did not take a descriptor');
    return { path: `/dev/fdset/${set}`, release: () => void this.#released.add(set) };
  }

  /**
   * Lets the VM run. Then QEMU closes released descriptors, which it does only while the VM runs (QEMU, monitor/fds.c):
   * without it each save would leave one, until there are no more.
   * @throws VmmError as `execute`
   */
  async cont(): Promise<void> {
    await this.execute('cont');
    for (const set of this.#released) {
      this.#released.delete(set);
      this.execute('remove-fd', { 'fdset-id': set }).catch((error: unknown) => ignore(error, 'the VM has ended'));
    }
  }

  async #executeWithFd(command: string, args: Readonly<Record<string, unknown>>, fd: number): Promise<unknown> {
    return await this.#execute(command, args, QMP_COMMAND_MS_MAX, (text) => {
      const bytes = Buffer.from(text);
      const own = handleFd(this.#stream);
      const sent =
        own === undefined || this.#stream.writableLength > 0
          ? -1
          : new FdChannel(bytes.length, 1).send(own, bytes, [fd]);
      if (sent === bytes.length) return;
      throw new VmmError('vmm_command_failed', 'could not pass a descriptor to QEMU', {
        cause: sent < 0 ? `errno ${-sent}` : 'the message was truncated',
      });
    });
  }

  async #execute(
    command: string,
    args: Readonly<Record<string, unknown>> | undefined,
    timeoutMs: number,
    write: (text: string) => void,
  ): Promise<unknown> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#pending.size >= QMP_PENDING_MAX) {
      throw new VmmError('vmm_command_failed', `"${command}" can't be sent`, {
        cause: `${QMP_PENDING_MAX} commands have no answer yet`,
      });
    }
    const id = this.#nextId++;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { command, resolve, reject });
    });
    try {
      write(`${JSON.stringify({ execute: command, id, arguments: args })}\n`);
      return await this.#withDeadline(answer, timeoutMs, `the answer to "${command}"`);
    } finally {
      this.#pending.delete(id);
    }
  }

  /**
   * Resolves at the next event that matches; call it before the command that causes the event.
   * @throws VmmError `vmm_timeout`, `vm_gone`
   */
  async event(matches: (event: QmpEvent) => boolean, timeoutMs: number): Promise<QmpEvent> {
    if (this.#failure !== undefined) throw this.#failure;
    const seen = Promise.withResolvers<QmpEvent>();
    this.#awaited.add(seen.reject);
    const stop = this.onEvent((event) => {
      if (matches(event)) seen.resolve(event);
    });
    try {
      return await this.#withDeadline(seen.promise, timeoutMs, 'an event');
    } finally {
      stop();
      this.#awaited.delete(seen.reject);
    }
  }

  close(): void {
    this.#fail('vm_gone', 'the control connection was closed');
    this.#stream.destroy();
  }

  /** @param wanted rejects when the connection ends */
  async #withDeadline<T>(wanted: Promise<T>, timeoutMs: number, what: string): Promise<T> {
    const late = Promise.withResolvers<never>();
    const cancel = this.#clock.after(timeoutMs, () =>
      late.reject(new VmmError('vmm_timeout', `QEMU did not give ${what} within ${timeoutMs} ms`)),
    );
    return await Promise.race([wanted, late.promise]).finally(cancel);
  }

  /** Lets a VMM that floods wait, so that it does not hold up the event loop. */
  #pace(): void {
    if (this.#loopTime.isOpen || this.#stream.destroyed) return;
    this.#stream.pause();
    this.#clock.after(Math.ceil(this.#loopTime.waitMs), () => this.#stream.resume());
  }

  #receive(bytes: Buffer): void {
    if (this.#failure !== undefined) return;
    const decoded = this.#decoder.receive(bytes);
    if (!decoded.ok) {
      this.#fail('vmm_command_failed', 'QEMU broke the control protocol', decoded.reason);
      this.#stream.destroy();
      return;
    }
    for (const message of decoded.messages) this.#handle(message);
  }

  #handle(message: QmpMessage): void {
    switch (message.kind) {
      case 'greeting':
        this.#greeted.resolve();
        return;
      case 'event':
        this.#listeners.emit(message.event);
        return;
      case 'return':
        this.#pending.get(message.id)?.resolve(message.value);
        return;
      case 'error':
        this.#refuse(message.id, message.description);
    }
  }

  #refuse(id: number, cause: string): void {
    const pending = this.#pending.get(id);
    const message = `QEMU refused "${pending?.command}"`;
    pending?.reject(new VmmError('vmm_command_failed', message, { cause }));
  }

  #fail(code: 'vm_gone' | 'vmm_command_failed', message: string, cause?: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = new VmmError(code, message, { cause });
    this.#greeted.reject(this.#failure);
    for (const pending of this.#pending.values()) pending.reject(this.#failure);
    for (const reject of this.#awaited) reject(this.#failure);
    this.#closed.resolve(this.#failure);
  }
}
