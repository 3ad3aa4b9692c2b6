/**
 * Writes the files of a build that a client sent as a tar archive below a new directory. The archive is hostile: every
 * member is created anew, below directories of this archive alone, and links only when all files are written, so that
 * nothing is written through one.
 */
import { chmod, lutimes, mkdir, open, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describeError, errorCode, isFullDisk } from '../../base/errors.ts';
import { GIB } from '../../base/units.ts';
import { type ReadMember, readArchive } from '../transfer/archive-reader.ts';
import { DockerfileError, diskFull } from './errors.ts';
import { CONTEXT_LIMITS, type ContextLimits } from './limits.ts';

/** Modes keep no setuid, setgid or sticky bit: the file lies on the host. */
const MODE_MASK = 0o777;

/**
 * @param dir exists and is empty
 * @param limits smaller ones for tests
 * @throws DockerfileError `context_invalid`, `disk_full`; the signal's reason. `dir` is left as it is then
 */
export async function writeSentContext(
  dir: string,
  archive: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
  limits: ContextLimits = CONTEXT_LIMITS,
): Promise<void> {
  try {
    await new SentContext(dir, signal, limits).write(archive);
  } catch (error) {
    if (isFullDisk(error)) throw diskFull(null, error);
    if (errorCode(error) !== 'invalid_source') throw error;
    throw new DockerfileError('context_invalid', null, describeError(error));
  }
}

class SentContext {
  readonly #dir: string;
  readonly #signal: AbortSignal;
  readonly #limits: ContextLimits;
  /** By path; a directory that only a member below it names has none. */
  readonly #members = new Map<string, Omit<ReadMember, 'content'> | null>([['', null]]);
  #bytes = 0;

  constructor(dir: string, signal: AbortSignal, limits: ContextLimits) {
    this.#dir = dir;
    this.#signal = signal;
    this.#limits = limits;
  }

  async write(archive: AsyncIterable<Uint8Array>): Promise<void> {
    for await (const { content, ...member } of readArchive(archive)) {
      this.#signal.throwIfAborted();
      await this.#directory(above(member.path));
      const before = this.#members.get(member.path);
      const isKnown = before === null || before?.type === 'directory';
      if (before !== undefined && !(isKnown && member.type === 'directory')) {
        throw invalid(`${JSON.stringify(member.path)} is in it twice`);
      }
      this.#members.set(member.path, member);
      this.#check();
      if (member.type === 'directory' && !isKnown) await mkdir(this.#here(member.path), { mode: 0o700 });
      if (member.type === 'file') await this.#file(member.path, content);
    }
    await this.#finish();
  }

  /** Makes the directories of a path that the archive does not name before it. */
  async #directory(path: string): Promise<void> {
    const known = this.#members.get(path);
    if (known === null || known?.type === 'directory') return;
    if (known !== undefined) throw invalid(`${JSON.stringify(path)} is not a directory`);
    if (path.split('/').length > this.#limits.depthMax) throw invalid('its directories are too deep');
    await this.#directory(above(path));
    this.#members.set(path, null);
    this.#check();
    await mkdir(this.#here(path), { mode: 0o755 });
  }

  async #file(path: string, content: AsyncIterable<Uint8Array>): Promise<void> {
    await using file = await open(this.#here(path), 'wx', 0o600);
    for await (const chunk of content) {
      this.#signal.throwIfAborted();
      this.#bytes += chunk.length;
      this.#check();
      await file.writeFile(chunk);
    }
  }

  /** Links, then modes and times, the deepest first: a directory may be closed to its owner. */
  async #finish(): Promise<void> {
    const members = [...this.#members.values()].filter((member) => member !== null);
    for (const { type, path, target = '' } of members) {
      if (type === 'symlink') await symlink(target, this.#here(path));
    }
    // Archives may have no member for their own directory.
    await chmod(this.#dir, 0o755);
    for (const { type, path, mode, modifiedS = 0 } of members.toReversed()) {
      this.#signal.throwIfAborted();
      if (type !== 'symlink') await chmod(this.#here(path), mode & MODE_MASK);
      await lutimes(this.#here(path), modifiedS, modifiedS);
    }
  }

  #here(path: string): string {
    return join(this.#dir, path);
  }

  #check(): void {
    const { entriesMax, bytesMax } = this.#limits;
    if (this.#members.size > entriesMax) throw invalid(`it has more than ${entriesMax} files`);
    if (this.#bytes > bytesMax) throw invalid(`it has more than ${bytesMax / GIB} GiB of files`);
  }
}

/** The directory of a path; of the archive's own directory, itself. */
const above = (path: string): string => dirname(path).replace(/^\.$/, '');

const invalid = (why: string): DockerfileError =>
  new DockerfileError('context_invalid', null, `the files that were sent can't be used: ${why}`);
