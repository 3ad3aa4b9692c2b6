/** Computes checksums of files in a guest, by one program instead of a transfer of each file. */
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Guest } from '../../machine/guest/link.ts';
import { ENTRIES_MAX, fileOptions, type TransferOptions } from './transfer.ts';

/** For a guest that hangs; 1 GiB takes half a minute in an emulated one. */
const TIMEOUT_MS = 600_000;
/** A line: the sum, two characters, a path of Linux, NUL. */
const OUTPUT_BYTES_MAX = ENTRIES_MAX * (64 + 2 + 4096 + 1);

/**
 * @param paths relative to `directory`
 * @returns SHA-256 sums by path, hexadecimal, as the guest computes them: untrusted. A file that the guest can't read
 * has none
 */
export async function sumsInGuest(
  guest: Guest,
  directory: string,
  paths: readonly string[],
  options: TransferOptions,
): Promise<ReadonlyMap<string, string>> {
  if (paths.length === 0) return new Map();
  const { signal, ...as } = fileOptions(options);
  const argv = ['xargs', '-0', '-r', 'sha256sum', '-z', '--'];
  const spec = { argv, cwd: directory, outputBytesMax: OUTPUT_BYTES_MAX, timeoutMs: TIMEOUT_MS, ...as };
  const process = await guest.exec(spec, signal).catch((error: unknown) => {
    if (errorCode(error) !== 'not_found') throw error;
    ignore(error, 'an image without these programs: files are compared here');
    return null;
  });
  if (process === null) return new Map();
  process.stderr.resume();
  const input = paths.map((path) => `${path}\0`);
  pipeline(Readable.from(input), process.stdin).catch((error: unknown) =>
    ignore(error, 'files without a sum are compared here'),
  );
  const sums = new SumReader(new Set(paths));
  for await (const chunk of process.stdout as AsyncIterable<Buffer>) sums.receive(chunk);
  await process.exit;
  return sums.sums;
}

const LINE_BYTES_MAX = 64 + 2 + 4096;

/** Reads the output of `sha256sum --zero`. Pure. */
export class SumReader {
  readonly sums = new Map<string, string>();
  readonly #wanted: ReadonlySet<string>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(wanted: ReadonlySet<string>) {
    this.#wanted = wanted;
  }

  receive(chunk: Uint8Array): void {
    let rest = Buffer.concat([this.#rest, chunk]);
    for (let end = rest.indexOf(0); end >= 0; end = rest.indexOf(0)) {
      this.#line(rest.toString('utf8', 0, end));
      rest = rest.subarray(end + 1);
    }
    // No path is that long, so what follows is no output of this program.
    this.#rest = rest.length > LINE_BYTES_MAX ? Buffer.alloc(0) : rest;
  }

  #line(line: string): void {
    const [, sum, path] = /^([0-9a-f]{64}) [ *](.+)$/s.exec(line) ?? [];
    if (sum !== undefined && path !== undefined && this.#wanted.has(path)) this.sums.set(path, sum);
  }
}
