/**
 * Reads single files out of a `.tgz` that may be hostile. `tar` only lists names and writes contents to its output, so
 * no path, link, owner or mode of the archive has an effect here; both its input and its output are bounded.
 */
import { spawn } from 'node:child_process';
import { createReadStream, createWriteStream } from 'node:fs';
import { Transform, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { errorCode } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import { isDiskFull } from './disk-space.ts';
import { ImageError } from './errors.ts';
import { toolEnvironment } from './tool.ts';

/** Unpacked size. A release of Firecracker has debug symbols of a few hundred MiB. */
const UNPACKED_BYTES_MAX = 1024 * MIB;
const LIST_BYTES_MAX = MIB;
const WORDS_MAX = 400;

/** @throws ImageError `source_invalid`, `tool_missing`, `cancelled` */
export async function listArchive(
  path: string,
  signal: AbortSignal,
  unpackedBytesMax = UNPACKED_BYTES_MAX,
): Promise<readonly string[]> {
  let text = '';
  const collect = new Writable({
    write(chunk: Buffer, _, done) {
      text += chunk.toString('latin1');
      done();
    },
  });
  const limits = { unpackedBytesMax, bytesMax: LIST_BYTES_MAX };
  await runTar(path, ['-t'], { to: collect, ...limits, signal });
  return text.split('\n').filter((name) => name !== '');
}

/**
 * @param name as listed, of letters, digits, `.`, `_`, `-` and `/`; of several entries with it, the first counts
 * @param to a path that does not exist
 * @throws ImageError `source_invalid` if it is damaged, too large, or not a regular file; `tool_missing`; `cancelled`
 */
export async function extractFile(
  path: string,
  name: string,
  to: string,
  options: { readonly mode: number; readonly bytesMax: number; readonly signal: AbortSignal },
): Promise<void> {
  const { mode, bytesMax, signal } = options;
  const file = createWriteStream(to, { flags: 'wx', mode });
  const args = ['-x', '-O', '--occurrence=1', '--no-wildcards', '--no-unquote', '--', name];
  const bytes = await runTar(path, args, { to: file, bytesMax, signal });
  // Links and directories have no content.
  if (bytes === 0) throw invalid(path, `${name} is not a regular file with content`);
}

interface TarOptions {
  readonly to: Writable;
  readonly bytesMax: number;
  readonly unpackedBytesMax?: number;
  readonly signal: AbortSignal;
}

/** @returns bytes written to `to` */
async function runTar(
  path: string,
  args: readonly string[],
  { to, bytesMax, unpackedBytesMax = UNPACKED_BYTES_MAX, signal }: TarOptions,
): Promise<number> {
  const [operation = '', ...rest] = args;
  const child = spawn('tar', [operation, '-f', '-', ...rest], {
    env: toolEnvironment(),
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let words = '';
  child.stderr.on('data', (chunk: Buffer) => {
    words = (words + chunk.toString('latin1')).slice(0, WORDS_MAX);
  });
  const exited = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  let written = 0;
  const input = capped(unpackedBytesMax, path);
  const output = capped(bytesMax, path, (bytes) => {
    written = bytes;
  });
  const fed = pipeline(createReadStream(path), createGunzip(), input, child.stdin, { signal }).catch(
    (error: unknown) => {
      // With `--occurrence`, tar ends before its input does.
      if (errorCode(error) === 'EPIPE' || errorCode(error) === 'ERR_STREAM_PREMATURE_CLOSE') return;
      child.kill('SIGKILL');
      throw error;
    },
  );
  const drained = pipeline(child.stdout, output, to, { signal }).catch((error: unknown) => {
    child.kill('SIGKILL');
    throw error;
  });
  const ends = await Promise.allSettled([fed, drained, exited]);
  if (signal.aborted) {
    throw new ImageError('cancelled', `unpack ${path}`, { cause: signal.reason });
  }
  const [first, second, third] = ends;
  if (third.status === 'rejected') {
    const isMissing = errorCode(third.reason) === 'ENOENT';
    const remedy = isMissing ? { remedy: 'Install the package tar.' } : {};
    throw new ImageError(isMissing ? 'tool_missing' : 'tool_failed', 'start tar', { cause: third.reason, ...remedy });
  }
  for (const end of [first, second]) {
    if (end.status === 'fulfilled') continue;
    throw end.reason instanceof ImageError || isDiskFull(end.reason) ? end.reason : invalid(path, end.reason);
  }
  if (third.value !== 0) throw invalid(path, words.trim() || `tar ended with ${third.value}`);
  return written;
}

function capped(bytesMax: number, path: string, count: (bytes: number) => void = () => undefined): Transform {
  let bytes = 0;
  return new Transform({
    transform(chunk: Buffer, _, done) {
      bytes += chunk.length;
      count(bytes);
      const most = `${Math.floor(bytesMax / MIB)} MiB`;
      done(bytes > bytesMax ? invalid(path, `it unpacks to more than ${most}`) : null, chunk);
    },
  });
}

function invalid(path: string, cause: unknown): ImageError {
  return new ImageError('source_invalid', `unpack ${path}`, {
    cause,
    remedy: 'Use a release archive of Firecracker: firecracker-vVERSION-x86_64.tgz.',
  });
}
