/** Copies files of this machine into a guest: a file alone, a directory as one archive. */
import { createReadStream } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describeError, errorCode } from '../../base/errors.ts';
import type { Guest } from '../../machine/guest/link.ts';
import { archive } from './archive.ts';
import type { IgnoreRules } from './ignored.ts';
import { CopyError, fileOptions, type TransferOptions, TransferProgress } from './transfer.ts';
import { type LocalEntry, listHere, readError } from './tree-here.ts';

/**
 * Copies into `target` if it is a directory, otherwise to that name.
 * @param rules of a project; `null` to copy everything
 * @returns the path in the guest
 */
export async function copyIn(
  guest: Guest,
  source: string,
  target: string,
  options: TransferOptions = {},
  rules: IgnoreRules | null = null,
): Promise<string> {
  const name = basename(resolve(source));
  const into = (await isDirectory(guest, target, options)) && !/(^|\/)\.$/.test(source);
  const to = into ? join(target, name) : target;
  await sendTree(guest, await listHere(source, rules), to, options);
  return to;
}

async function isDirectory(guest: Guest, path: string, options: TransferOptions): Promise<boolean> {
  if (path === '~' || path.endsWith('/')) return true;
  const as = fileOptions(options);
  try {
    const entry = await guest.files.stat(path, as);
    // A link to a directory counts as one, as for cp(1).
    if (entry.type !== 'symlink') return entry.type === 'directory';
    await guest.files.stat(`${path}/.`, as);
    return true;
  } catch (error) {
    if (errorCode(error) === 'not_found' || errorCode(error) === 'invalid_request') return false;
    throw error;
  }
}

export type Observe = (entry: LocalEntry, content: AsyncIterable<Uint8Array>) => AsyncIterable<Uint8Array>;

/**
 * Sends the files listed by `listHere`.
 * @param target name in the guest of the listed source
 * @throws CopyError `invalid_source`, `guest_failed`; GuestError
 */
export async function sendTree(
  guest: Guest,
  entries: readonly LocalEntry[],
  target: string,
  options: TransferOptions,
  observe: Observe = (_entry, content) => content,
): Promise<void> {
  const [root] = entries;
  if (root === undefined) return;
  const total = entries.reduce((sum, { type, bytes }) => sum + (type === 'file' ? bytes : 0), 0);
  const progress = new TransferProgress(options.onProgress, `Copy ${root.from}`, total);
  const content = (entry: LocalEntry): AsyncIterable<Uint8Array> => observe(entry, progress.count(contentOf(entry)));
  const as = fileOptions(options);
  let succeeded = false;
  try {
    if (root.type === 'file') {
      await guest.files.write(target, content(root), { mode: root.mode, ...as });
    } else {
      await guest.files.makeDirectory(target, as).catch((error: unknown) => {
        if (errorCode(error) !== 'already_exists') throw error;
      });
      await extract(guest, archive(entries, content), target, options);
    }
    succeeded = true;
  } finally {
    progress.end(succeeded);
  }
}

async function* contentOf({ from }: LocalEntry): AsyncGenerator<Uint8Array> {
  try {
    yield* createReadStream(from);
  } catch (error) {
    throw readError(from, error);
  }
}

function withoutTar(cause: unknown): CopyError {
  return new CopyError('guest_failed', 'the sandbox has no tar, which copies of directories need', {
    cause,
    remedy: 'use an image with tar, or copy single files',
  });
}

const SAID_CHARACTERS_MAX = 300;

async function extract(
  guest: Guest,
  members: AsyncIterable<Uint8Array>,
  target: string,
  options: TransferOptions,
): Promise<void> {
  const { signal, ...as } = fileOptions(options);
  // Programs of an image start elsewhere.
  const directory = target === '~' ? '.' : target.startsWith('~/') ? target.slice(2) : target;
  // Keeps permissions, but not owners and times; BusyBox also has these short options.
  const argv = ['tar', '-x', '-p', '-o', '-m', '-f', '-', '-C', directory];
  const process = await guest.exec({ argv, cwd: '~', ...as }, signal).catch((error: unknown) => {
    throw /program 'tar'/.test(describeError(error)) ? withoutTar(error) : error;
  });
  process.stdout.resume();
  let said = '';
  process.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(0, SAID_CHARACTERS_MAX);
  });
  let failure: unknown;
  const sending = pipeline(Readable.from(members), process.stdin).catch((error: unknown) => {
    failure = error;
    // Without the end of its input it would wait.
    process.kill();
  });
  const { exitCode } = await process.exit;
  await sending;
  if (failure instanceof CopyError) throw failure;
  if (exitCode === 0) return;
  const full = /No space left on device/.test(said);
  throw new CopyError('guest_failed', `${target}: ${said.trim() || 'tar failed in the guest'}`, {
    ...(full ? { remedy: 'give the sandbox a larger --disk' } : {}),
  });
}
