/** A listing of a hostile guest: entries within their bounds, or a typed error; never more than was sent. */

import { FakeClock } from '../../src/base/clock.ts';
import { GuestError } from '../../src/machine/guest/errors.ts';
import { ChannelFiles } from '../../src/machine/guest/files.ts';
import { FRAME, FrameDecoder } from '../../src/machine/guest/framing.ts';
import type { FileEntry } from '../../src/machine/guest/guest.ts';
import type { Operation, OperationHandlers } from '../../src/machine/guest/operation.ts';
import { pieces } from './cuts.ts';
import { must, target } from './target.ts';

const ENTRY =
  '{"name":"a","path":"/a","type":"file","bytes":1,"mode":420,"owner":"u","group":"g","modifiedMs":1,"symlinkTarget":null}\n';

/** An operation whose frames are those in the bytes. */
class Played {
  readonly #bytes: Buffer;
  isDestroyed = false;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  reply = (): Promise<unknown> => Promise.resolve({});
  pause = (): void => undefined;
  resume = (): void => undefined;
  lostError = (): GuestError => new GuestError('connection_lost', 'the connection ended');

  destroy(): void {
    this.isDestroyed = true;
  }

  begin(_mode: string, handlers: OperationHandlers): void {
    const decoder = new FrameDecoder();
    for (const piece of pieces(this.#bytes)) {
      const result = decoder.receive(piece);
      for (const frame of result.frames) handlers.onFrame?.(frame);
      if (!result.ok) break;
    }
    handlers.onEnd(null);
  }
}

const frame = (text: string, kind: number = FRAME.stdout): Buffer => {
  const head = Buffer.from([kind, 0, 0, 0, 0]);
  head.writeUInt32BE(Buffer.byteLength(text), 1);
  return Buffer.concat([head, Buffer.from(text)]);
};

export const guestFiles = target(
  'guest-files',
  async (bytes) => {
    const operation = new Played(bytes);
    const files = new ChannelFiles(() => operation as unknown as Operation, new FakeClock());
    let entries: readonly FileEntry[];
    try {
      entries = await files.list('/x');
    } catch (error) {
      must(error instanceof GuestError, `not a GuestError: ${String(error)}`);
      must(operation.isDestroyed, 'a broken listing goes on');
      return;
    }
    const lines = bytes.filter((byte) => byte === 10).length;
    must(entries.length <= lines, 'more entries than lines');
    for (const { name, path } of entries)
      must(Buffer.byteLength(name) <= 3 * 255 && path.length <= 4096, 'a long name');
  },
  {
    seeds: [
      Buffer.concat([frame(ENTRY), frame('')]),
      Buffer.concat([frame(ENTRY.slice(0, 30)), frame(ENTRY.slice(30) + ENTRY), frame('')]),
      Buffer.concat([frame('{"cut":true}\n'), frame('')]),
      Buffer.concat([frame(ENTRY), frame('{}', FRAME.control)]),
    ],
  },
);
