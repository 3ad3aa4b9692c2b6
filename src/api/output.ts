/** Buffers the output of a program for the `exec` route. */
import type { Readable } from 'node:stream';
import type { Process, ProcessExit } from '../guest/guest.ts';

export interface CollectedOutput {
  readonly exit: ProcessExit;
  readonly stdout: string;
  readonly stderr: string;
  /** True if output was dropped. */
  readonly truncated: boolean;
}

/**
 * Reads a program's output to its end and keeps the first `bytesMax` bytes. The agent has the same limit, but
 * a hostile agent need not respect it. Invalid UTF-8 becomes U+FFFD.
 * @throws GuestError if the end of the program is unknown
 */
export async function collectOutput(process: Process, bytesMax: number): Promise<CollectedOutput> {
  let left = bytesMax;
  let dropped = false;
  const collect = async (stream: Readable): Promise<string> => {
    const kept = new GrowingBuffer();
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      const part = chunk.subarray(0, left);
      if (part.length < chunk.length) dropped = true;
      left -= part.length;
      kept.append(part);
    }
    return kept.text();
  };
  const [stdout, stderr, exit] = await Promise.all([
    collect(process.stdout),
    collect(process.stderr),
    process.exit,
  ]);
  return { exit, stdout, stderr, truncated: dropped || exit.truncated };
}

/** Copies chunks together, so that a guest that sends single bytes costs bytes, not objects. */
class GrowingBuffer {
  #bytes = Buffer.alloc(0);
  #length = 0;

  append(part: Buffer): void {
    const length = this.#length + part.length;
    if (length > this.#bytes.length) {
      const larger = Buffer.alloc(Math.max(length, 2 * this.#bytes.length));
      this.#bytes.copy(larger, 0, 0, this.#length);
      this.#bytes = larger;
    }
    part.copy(this.#bytes, this.#length);
    this.#length = length;
  }

  text(): string {
    return this.#bytes.toString('utf8', 0, this.#length);
  }
}
