/** The output of a program whose answer comes in one piece. */
import type { Readable } from 'node:stream';
import type { Process, ProcessExit } from '../guest/guest.ts';

export interface CollectedOutput {
  readonly exit: ProcessExit;
  readonly stdout: string;
  readonly stderr: string;
  /** Something was dropped. */
  readonly truncated: boolean;
}

/**
 * Reads a program to its end and keeps its first `bytesMax` bytes of output. The agent has the same limit,
 * but an agent need not keep to it. Bytes that are no UTF-8 become U+FFFD.
 * @throws GuestError its end is not known
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

/** Copies, so that a guest that sends byte by byte costs bytes, not an object for each. */
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
