/** Buffers the output of a program for the `exec` route. */
import type { Readable } from 'node:stream';
import { type OutputEncoding, outputText } from '../../base/text/output-text.ts';
import type { Process, ProcessExit } from '../../machine/guest/guest.ts';
import type { AnswerBuffer } from './answer-buffer.ts';

export interface CollectedOutput {
  readonly exit: ProcessExit;
  readonly stdout: string;
  readonly stderr: string;
  readonly encoding: { readonly stdout: OutputEncoding; readonly stderr: OutputEncoding };
  readonly truncated: boolean;
}

/**
 * Reads a program's output to its end and keeps what fits into the buffers, at most `bytesMax` bytes together. The
 * agent has the same limit, but a hostile agent need not respect it. Output that is not UTF-8 becomes base64.
 * @throws GuestError if the end of the program is unknown
 */
export async function collectOutput(
  process: Process,
  bytesMax: number,
  buffers: { readonly stdout: AnswerBuffer; readonly stderr: AnswerBuffer },
): Promise<CollectedOutput> {
  let left = bytesMax;
  let dropped = false;
  const collect = async (stream: Readable, into: AnswerBuffer): Promise<boolean> => {
    let isFull = false;
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      const kept: number = isFull ? 0 : into.append(chunk.subarray(0, left));
      left -= kept;
      // Output after a gap is dropped, too.
      isFull ||= kept < chunk.length;
    }
    dropped ||= isFull;
    return isFull;
  };
  const [isStdoutCut, isStderrCut, exit] = await Promise.all([
    collect(process.stdout, buffers.stdout),
    collect(process.stderr, buffers.stderr),
    process.exit,
  ]);
  const stdout = outputText(buffers.stdout.content(), isStdoutCut || exit.truncated);
  const stderr = outputText(buffers.stderr.content(), isStderrCut || exit.truncated);
  return {
    exit,
    stdout: stdout.text,
    stderr: stderr.text,
    encoding: { stdout: stdout.encoding, stderr: stderr.encoding },
    truncated: dropped || exit.truncated,
  };
}
