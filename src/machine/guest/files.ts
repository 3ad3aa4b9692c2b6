/** Files of the guest, over operations. The guest checks every path with its user's own rights. */

import { Readable } from 'node:stream';
import type { Clock } from '../../base/clock.ts';
import { collect } from '../../base/collect.ts';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import type { Dial } from './dial.ts';
import { GuestError } from './errors.ts';
import { FRAME, type Frame, LineDecoder } from './framing.ts';
import type { FileEntry, FileEvent, FileOptions, FileWatch, GuestFiles, OpenFile } from './guest.ts';
import { GUEST_LIMITS } from './limits.ts';
import type { Operation } from './operation.ts';
import { Pace } from './pace.ts';
import { guestError, parseEntry, parseFileEvent, readEntry, readOpened } from './protocol.ts';

export type StartOperation = (
  what: string,
  request: Readonly<Record<string, unknown>>,
  options?: {
    signal?: AbortSignal | undefined;
    body?: Uint8Array;
    replyMsMax?: number;
    /** Default: a new connection to the guest. */
    dial?: Dial;
  },
) => Operation;

export class ChannelFiles implements GuestFiles {
  readonly #start: StartOperation;
  readonly #clock: Clock;

  constructor(start: StartOperation, clock: Clock) {
    this.#start = start;
    this.#clock = clock;
  }

  async read(path: string, options: FileOptions = {}): Promise<Readable> {
    const operation = this.#begin('read', path, {}, options);
    await operation.reply(anything);
    return contentStream(operation, path);
  }

  async open(
    path: string,
    options: FileOptions & { readonly offset?: number; readonly bytesMax?: number } = {},
  ): Promise<OpenFile> {
    const { offset = 0, bytesMax } = options;
    const range = { offset, ...(bytesMax === undefined ? {} : { bytesMax }) };
    const operation = this.#begin('read', path, range, options);
    const { bytes, modifiedMs } = await operation.reply(readOpened);
    return { bytes, modifiedMs, content: contentStream(operation, path) };
  }

  async readAll(path: string, options: FileOptions & { readonly bytesMax?: number } = {}): Promise<Buffer> {
    const { bytesMax = GUEST_LIMITS.readAllBytesMax } = options;
    const tooLarge = (): Error => guestError('too_large', `${path}: more than ${bytesMax} bytes`);
    return await collect(await this.read(path, options), bytesMax, tooLarge);
  }

  async write(
    path: string,
    content: string | Uint8Array | AsyncIterable<Uint8Array>,
    options: FileOptions & { readonly mode?: number; readonly metadata?: Readonly<Record<string, string>> } = {},
  ): Promise<FileEntry> {
    const { mode, metadata } = options;
    const operation = this.#begin('write', path, { mode, metadata }, options);
    const reply = operation.reply(readEntry);
    reply.catch((error: unknown) => ignore(error, 'awaited below'));
    const sending = sendContent(operation, content);
    sending.catch((error: unknown) => ignore(error, 'the race reports it, or it is too late to matter'));
    try {
      // Reports a refusal or a lost connection even while the content's source is stalled.
      await Promise.race([sending, reply]);
      return (await reply).entry;
    } catch (error) {
      // The content's source failed: without the end of the content the guest discards it.
      operation.destroy();
      throw error;
    } finally {
      operation.destroy();
    }
  }

  async stat(path: string, options: FileOptions = {}): Promise<FileEntry> {
    return await this.#simple('stat', path, {}, options);
  }

  async move(from: string, to: string, options: FileOptions = {}): Promise<FileEntry> {
    return await this.#simple('move', from, { to }, options);
  }

  async makeDirectory(path: string, options: FileOptions = {}): Promise<FileEntry> {
    return await this.#simple('mkdir', path, {}, options);
  }

  async remove(path: string, options: FileOptions = {}): Promise<void> {
    const operation = this.#begin('remove', path, {}, options);
    await operation.reply(anything);
    operation.destroy();
  }

  async list(path: string, options: FileOptions & { readonly depth?: number } = {}): Promise<readonly FileEntry[]> {
    const entries: FileEntry[] = [];
    for await (const entry of this.entries(path, options)) entries.push(entry);
    return entries;
  }

  async *entries(path: string, options: FileOptions & { readonly depth?: number } = {}): AsyncGenerator<FileEntry> {
    const { depth = 1 } = options;
    const operation = this.#begin('list', path, { depth }, options);
    await operation.reply(anything);
    yield* readEntries(contentStream(operation, path), path);
  }

  async watch(
    path: string,
    options: FileOptions & { readonly recursive?: boolean },
    listener: (event: FileEvent) => void,
  ): Promise<FileWatch> {
    const { recursive = false } = options;
    const operation = this.#begin('watch', path, { recursive }, options);
    await operation.reply(anything);
    const ended = Promise.withResolvers<void>();
    const pace = new Pace(this.#clock, GUEST_LIMITS.watchEventsPerSecondMax, operation);
    operation.begin('frames', {
      onFrame: (frame) => {
        pace.take();
        const parsed = parseFileEvent(frame.payload);
        if (!parsed.ok) operation.destroy(guestError('protocol_error', `watch: ${parsed.reason}`));
        else if (parsed.value.type === 'ended') operation.destroy();
        else listener({ type: parsed.value.type, name: parsed.value.name });
      },
      onEnd: () => ended.resolve(),
    });
    return { ended: ended.promise, stop: () => operation.destroy() };
  }

  async #simple(
    op: string,
    path: string,
    fields: Readonly<Record<string, unknown>>,
    options: FileOptions,
  ): Promise<FileEntry> {
    const operation = this.#begin(op, path, fields, options);
    const { entry } = await operation.reply(readEntry);
    operation.destroy();
    return entry;
  }

  #begin(
    op: string,
    path: string,
    fields: Readonly<Record<string, unknown>>,
    { user, asRoot, signal }: FileOptions,
  ): Operation {
    return this.#start(`${op} ${path}`, { op, path, user, asRoot, ...fields }, { signal });
  }
}

async function sendContent(
  operation: Operation,
  content: string | Uint8Array | AsyncIterable<Uint8Array>,
): Promise<void> {
  const whole = typeof content === 'string' ? Buffer.from(content) : content;
  for await (const part of whole instanceof Uint8Array ? [whole] : whole) {
    operation.expectReplyWithin(GUEST_LIMITS.replyMsMax);
    // In pieces, so that an early refusal stops the transfer.
    for (let at = 0; at < part.length && !operation.answered; at += GUEST_LIMITS.streamBytesMax) {
      await operation.send(FRAME.body, part.subarray(at, at + GUEST_LIMITS.streamBytesMax));
      operation.expectReplyWithin(GUEST_LIMITS.replyMsMax);
    }
    if (operation.answered) return;
  }
  await operation.sendEnd(FRAME.body);
  operation.expectReplyWithin(GUEST_LIMITS.replyMsMax);
}

/** The data frames up to the empty one; anything else is a truncated or broken stream. */
function contentStream(operation: Operation, what: string): Readable {
  let complete = false;
  const stream = new Readable({
    highWaterMark: GUEST_LIMITS.streamBytesMax,
    read: () => operation.resume(),
    destroy: (error, done) => {
      operation.destroy();
      done(error);
    },
  });
  const onFrame = (frame: Frame): void => {
    if (complete || stream.destroyed) return;
    if (frame.kind !== FRAME.stdout) {
      stream.destroy(guestError('protocol_error', `${what}: unexpected frame ${frame.kind}`));
    } else if (frame.payload.length === 0) {
      complete = true;
      stream.push(null);
    } else if (!stream.push(frame.payload)) {
      operation.pause();
    }
  };
  operation.begin('frames', {
    onFrame,
    onEnd: (error) => {
      if (complete || stream.destroyed) return;
      stream.destroy(error ?? operation.lostError());
    },
  });
  return stream;
}

async function* readEntries(stream: Readable, path: string): AsyncGenerator<FileEntry> {
  const lines = new LineDecoder(GUEST_LIMITS.listLineBytesMax);
  let count = 0;
  let bytes = 0;
  for await (const chunk of stream) {
    let rest: Buffer = chunk;
    bytes += rest.length;
    if (bytes > GUEST_LIMITS.listBytesMax) {
      throw tooLargeList(path, `${GUEST_LIMITS.listBytesMax / MIB} MiB of entries`);
    }
    for (;;) {
      const result = lines.receive(rest);
      if (!result.ok) throw guestError('protocol_error', `list ${path}: ${result.reason}`);
      if (result.line === null) break;
      rest = result.rest;
      if (result.line.subarray(0, CUT.length).equals(CUT)) {
        throw tooLargeList(path, `${GUEST_LIMITS.listEntriesMax - 1} entries`);
      }
      const parsed = parseEntry(result.line);
      if (!parsed.ok) throw guestError('protocol_error', `list ${path}: ${parsed.reason}`);
      count += 1;
      if (count > GUEST_LIMITS.listEntriesMax) {
        throw guestError('protocol_error', `list ${path}: more entries than the agent sends`);
      }
      yield parsed.value;
    }
  }
}

function tooLargeList(path: string, limit: string): GuestError {
  return new GuestError('too_large', `list ${path}: more than ${limit}`, {
    remedy: 'List its subdirectories one by one, or pack it with `tar` in the sandbox and copy the archive.',
  });
}

/** Prefix of the line with which the agent marks a truncated listing. */
const CUT = Buffer.from('{"cut":');

const anything = (fields: unknown): { readonly ok: true; readonly value: unknown } => ({ ok: true, value: fields });
