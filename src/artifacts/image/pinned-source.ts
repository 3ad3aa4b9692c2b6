/**
 * Copies a file or the answer of a URL into a new file while computing its SHA-256. The file must not be used before.
 */
import { createHash } from 'node:crypto';
import { constants, createWriteStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';
import { systemClock } from '../../base/clock.ts';
import { MIB } from '../../base/units.ts';
import { isDiskFull } from './disk-space.ts';
import { ImageError } from './errors.ts';

/** A server that sends nothing for this time is given up. */
const STILL_MS_MAX = 60_000;

export interface PinnedSource {
  readonly from: string;
  /** Hexadecimal. */
  readonly sha256: string;
  readonly bytesMax: number;
}

interface CopyOptions {
  readonly signal: AbortSignal;
  readonly mode?: number;
  /** @param bytesTotal `null` if unknown */
  readonly onBytes?: (bytes: number, bytesTotal: number | null) => void;
}

export const isUrl = (text: string): boolean => /^https?:\/\//i.test(text);

/**
 * @param to a path that does not exist; after an error its content must not be used
 * @throws ImageError `source_invalid` if it is missing, too large, or has another digest; `install_failed` if the
 * download fails; `cancelled`; Error of Node `ENOSPC`, `EDQUOT`
 */
export async function copyPinned(source: PinnedSource, to: string, options: CopyOptions): Promise<void> {
  const { from, sha256, bytesMax } = source;
  const { signal, mode = 0o600, onBytes } = options;
  const idle = new AbortController();
  const stop = AbortSignal.any([signal, idle.signal]);
  const restart = (): void => {
    cancel();
    cancel = systemClock.after(STILL_MS_MAX, () => idle.abort(new Error('the server is silent')));
  };
  let cancel = (): void => undefined;
  restart();
  const hash = createHash('sha256');
  let bytes = 0;
  let total: number | null = null;
  const counter = new Transform({
    transform(chunk: Buffer, _, done) {
      restart();
      bytes += chunk.length;
      hash.update(chunk);
      onBytes?.(bytes, total);
      done(bytes > bytesMax ? tooLarge(source) : null, chunk);
    },
  });
  try {
    const opened = isUrl(from) ? await openUrl(source, stop) : await openFile(source);
    total = opened.total;
    await pipeline(opened.stream, counter, createWriteStream(to, { flags: 'wx', mode }), { signal: stop });
  } catch (cause) {
    if (signal.aborted) throw new ImageError('cancelled', `copy ${from}`, { cause });
    if (cause instanceof ImageError) throw cause;
    if (!isUrl(from) || isDiskFull(cause)) throw cause;
    throw new ImageError('install_failed', `download ${from}`, {
      cause: idle.signal.aborted ? idle.signal.reason : cause,
      remedy: 'Check the connection, or download it by other means and name the file.',
    });
  } finally {
    cancel();
  }
  const found = hash.digest('hex');
  if (found === sha256) return;
  throw new ImageError('source_invalid', `verify ${from}: its SHA-256 is ${found}, not ${sha256}`, {
    remedy: 'Compare the digest with the one that its publisher names; do not use the file.',
  });
}

interface Opened {
  readonly stream: Readable;
  readonly total: number | null;
}

async function openUrl(source: PinnedSource, signal: AbortSignal): Promise<Opened> {
  const response = await fetch(source.from, { signal });
  if (!response.ok || response.body === null) {
    await response.body?.cancel();
    throw new Error(`the server answered ${response.status}`);
  }
  const length = Number(response.headers.get('content-length') ?? Number.NaN);
  if (length > source.bytesMax) {
    await response.body.cancel();
    throw tooLarge(source);
  }
  const stream = Readable.fromWeb(response.body as ReadableStream);
  return { stream, total: Number.isSafeInteger(length) ? length : null };
}

async function openFile(source: PinnedSource): Promise<Opened> {
  const refuse = (cause: unknown): never => {
    throw new ImageError('source_invalid', `read ${source.from}`, { cause });
  };
  // A pipe must not block the open.
  const flags = constants.O_RDONLY | constants.O_NONBLOCK;
  const file = await open(source.from, flags).catch(refuse);
  const status = await file.stat();
  if (!status.isFile() || status.size > source.bytesMax) {
    await file.close();
    if (!status.isFile()) refuse('it is not a regular file');
    throw tooLarge(source);
  }
  return { stream: file.createReadStream(), total: status.size };
}

function tooLarge({ from, bytesMax }: PinnedSource): ImageError {
  return new ImageError('source_invalid', `read ${from}: it has more than ${Math.floor(bytesMax / MIB)} MiB`);
}
