/** The files that COPY takes from this machine: found by patterns, filtered by `.dockerignore`, with a digest. */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open, readdir, readlink, realpath } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { describeError, errorCode } from '../../base/errors.ts';
import { compile, hasWildcard, matches } from '../../base/text/glob.ts';
import { GIB } from '../../base/units.ts';
import { type ArchiveMember, archive } from '../transfer/archive.ts';
import { cleanPath, DockerIgnore, IGNORE_LIMITS, type Verdict } from '../transfer/docker-ignore.ts';
import { CopyError } from '../transfer/transfer.ts';
import { DockerfileError, shown } from './errors.ts';
import { CONTEXT_LIMITS, type ContextLimits } from './limits.ts';

/** Member of an archive: `<number of the source>/<path below it>`. */
interface ContextEntry extends ArchiveMember {
  /** Path on this machine; `null` if `text` is the content. */
  readonly from: string | null;
  readonly text: string;
}

export interface Selection {
  /** Last path element of each source, in the order of the archive's numbers. */
  readonly names: readonly string[];
  readonly entries: readonly ContextEntry[];
  /** SHA-256 of each file's content, by its path in the archive. */
  readonly contents: ReadonlyMap<string, string>;
  /** Digest of names, modes, links and contents, but not of times. */
  readonly digest: string;
}

interface Place {
  /** Relative to the context; `''` for the context itself. */
  readonly path: string;
  readonly verdict: Verdict | null;
}

export class BuildContext {
  /** Real path. */
  readonly dir: string;
  readonly #rules: DockerIgnore;
  readonly #limits: ContextLimits;
  #entries = 0;
  /** Number of names that patterns were compared with. */
  #listed = 0;
  #bytes = 0;

  private constructor(dir: string, rules: DockerIgnore, limits: ContextLimits) {
    this.dir = dir;
    this.#rules = rules;
    this.#limits = limits;
  }

  /**
   * @param dockerfile path; rules in `<dockerfile>.dockerignore` replace those of the context
   * @param limits smaller ones for tests
   * @throws DockerfileError `context_invalid`
   */
  static async open(
    dir: string,
    dockerfile: string | null,
    limits: ContextLimits = CONTEXT_LIMITS,
  ): Promise<BuildContext> {
    const root = await realpath(dir).catch((error: unknown) => {
      throw contextInvalid(null, `the context ${dir}`, error);
    });
    const own = dockerfile === null ? null : await rulesOf(`${dockerfile}.dockerignore`);
    const rules = own ?? (await rulesOf(join(root, '.dockerignore'))) ?? NO_RULES;
    return new BuildContext(root, rules, limits);
  }

  /** Files that a client has sent: it has left out what its rules ignore. @throws DockerfileError `context_invalid` */
  static async openSent(dir: string): Promise<BuildContext> {
    return new BuildContext(await realpath(dir), NO_RULES, CONTEXT_LIMITS);
  }

  /** All files, for a daemon elsewhere. @throws DockerfileError `context_invalid`; the signal's reason */
  async pack(signal: AbortSignal): Promise<{ readonly bytes: number; readonly archive: AsyncIterable<Uint8Array> }> {
    const { entries } = await this.#collect(null, ['.'], signal);
    // Each path begins with the number of its source, which is the only one.
    const sent = entries.map((entry) => ({ ...entry, path: entry.path.slice('0/'.length) || '.' }));
    return { bytes: this.#bytes, archive: packed(sent) };
  }

  /**
   * @param inline files of the Dockerfile itself, added after the sources
   * @throws DockerfileError `context_invalid`; the signal's reason
   */
  async select(
    line: number | null,
    patterns: readonly string[],
    inline: readonly { readonly name: string; readonly content: string }[],
    signal: AbortSignal,
  ): Promise<Selection> {
    const { names, entries } = await this.#collect(line, patterns, signal);
    for (const { name, content } of inline) {
      const bytes = Buffer.byteLength(content);
      const path = `${names.length}`;
      entries.push({ type: 'file', path, mode: 0o644, bytes, from: null, text: content });
      names.push(name);
    }
    const contents = await contentsOf(line, entries, signal);
    return { names, entries, contents, digest: digestOf(names, entries, contents) };
  }

  /** What the patterns name, without reading it. */
  async #collect(
    line: number | null,
    patterns: readonly string[],
    signal: AbortSignal,
  ): Promise<{ names: string[]; entries: ContextEntry[] }> {
    const entries: ContextEntry[] = [];
    const names: string[] = [];
    this.#entries = 0;
    this.#listed = 0;
    this.#bytes = 0;
    for (const pattern of patterns) {
      const found = await this.#find(line, pattern, signal);
      if (found.length === 0) throw this.#missing(line, pattern);
      for (const place of found) {
        await this.#walk(line, place, `${names.length}`, entries, signal);
        names.push(basename(place.path));
      }
    }
    return { names, entries };
  }

  async #find(line: number | null, pattern: string, signal: AbortSignal): Promise<readonly Place[]> {
    const parts = cleanPath(pattern)
      .split('/')
      .filter((part) => part !== '');
    let places: readonly Place[] = [{ path: '', verdict: null }];
    for (const part of parts) {
      const next: Place[] = [];
      for (const place of places) {
        signal.throwIfAborted();
        for (const found of await this.#below(line, place, part)) next.push(found);
        this.#checkCount(line, next.length);
      }
      places = next;
    }
    return places;
  }

  async #below(line: number | null, place: Place, part: string): Promise<readonly Place[]> {
    if (!hasWildcard(part)) return await this.#existing([this.#judge(place, part)]);
    const pattern = compile(part, false);
    if (pattern === null) throw contextInvalid(line, `"${shown(part)}" is not a pattern`);
    const names = await readdir(this.#here(place.path)).catch((error: unknown) => {
      if (['ENOTDIR', 'ENOENT'].includes(errorCode(error) ?? '')) return [];
      throw contextInvalid(line, place.path, error);
    });
    // A pattern like `*/*/*` may scan directories with any number of names.
    this.#listed += names.length;
    if (this.#listed > this.#limits.listedMax) {
      const what = `"${shown(part)}" is compared with more than ${this.#limits.listedMax} names`;
      throw contextInvalid(line, what, undefined, 'Use fewer wildcards.');
    }
    const found: Place[] = [];
    for (const name of names.toSorted()) {
      if (!matches(pattern, name)) continue;
      found.push(...(await this.#existing([this.#judge(place, name)])));
      this.#checkCount(line, found.length);
    }
    return found;
  }

  async #existing(places: readonly Place[]): Promise<readonly Place[]> {
    const found: Place[] = [];
    for (const place of places) {
      const info = await lstat(this.#here(place.path)).catch(() => null);
      if (info === null) continue;
      const passes = info.isDirectory() && this.#rules.hasExceptions;
      if (place.verdict?.ignored !== true || passes) found.push(place);
    }
    return found;
  }

  #judge(place: Place, name: string): Place {
    const path = place.path === '' ? name : `${place.path}/${name}`;
    return { path, verdict: this.#rules.judge(path, place.verdict) };
  }

  #here(path: string): string {
    return path === '' ? this.dir : join(this.dir, path);
  }

  /** A source may be reached by links, as long as they stay in the context. */
  async #inside(line: number | null, path: string): Promise<string> {
    const real = await realpath(this.#here(path)).catch((error: unknown) => {
      throw contextInvalid(line, path, error);
    });
    if (real === this.dir || real.startsWith(`${this.dir}/`)) return real;
    throw contextInvalid(line, `${shown(path)} leads out of the context`);
  }

  async #walk(
    line: number | null,
    top: Place,
    as: string,
    entries: ContextEntry[],
    signal: AbortSignal,
  ): Promise<void> {
    const add = async (from: string, at: Place, path: string, depth: number): Promise<void> => {
      signal.throwIfAborted();
      const info = await lstat(from).catch((error: unknown) => {
        throw contextInvalid(line, at.path, error);
      });
      const ignored = at.verdict?.ignored === true;
      if (ignored && !(info.isDirectory() && this.#rules.hasExceptions)) return;
      const modifiedS = Math.floor(info.mtimeMs / 1000);
      const entry = { path, mode: info.mode & 0o7777, bytes: info.size, from, text: '', modifiedS };
      // Entries of a directory are counted before they are read.
      if (depth === 0) this.#entries += 1;
      if (info.isFile()) {
        this.#bytes += info.size;
        entries.push({ type: 'file', ...entry });
      } else if (info.isSymbolicLink()) {
        entries.push({ type: 'symlink', ...entry, target: await readlink(from) });
      } else if (info.isDirectory()) {
        if (depth > this.#limits.depthMax) throw contextInvalid(line, `${at.path} is too deep`);
        // An ignored directory is included only for exceptions below it.
        const before = entries.length;
        entries.push({ type: 'directory', ...entry });
        for (const name of (await this.#names(line, from, at)).toSorted()) {
          await add(join(from, name), this.#judge(at, name), `${path}/${name}`, depth + 1);
        }
        if (ignored && entries.length === before + 1) entries.pop();
      } else if (depth === 0) throw contextInvalid(line, `${shown(at.path)} is not a file`);
      this.#check(line);
    };
    await add(await this.#inside(line, top.path), top, as, 0);
  }

  async #names(line: number | null, from: string, at: Place): Promise<readonly string[]> {
    const names = await readdir(from).catch((error: unknown) => {
      throw contextInvalid(line, at.path, error);
    });
    this.#entries += names.length;
    this.#check(line);
    return names;
  }

  #check(line: number | null): void {
    this.#checkCount(line, this.#entries);
    if (this.#bytes > this.#limits.bytesMax) {
      throw tooMuch(line, `${this.#limits.bytesMax / GIB} GiB of files`);
    }
  }

  #checkCount(line: number | null, entries: number): void {
    const { entriesMax } = this.#limits;
    if (entries > entriesMax) throw tooMuch(line, `${entriesMax} files`);
  }

  #missing(line: number | null, pattern: string): DockerfileError {
    const remedy = 'Check the path and .dockerignore; paths are relative to the context.';
    return contextInvalid(line, `"${shown(pattern)}" is not in the context`, undefined, remedy);
  }
}

const tooMuch = (line: number | null, what: string): DockerfileError =>
  contextInvalid(line, `the context has more than ${what}`, undefined, 'List what is not needed in .dockerignore.');
const NO_RULES = DockerIgnore.parse('');

/** The archive of a selection, for tar(1). @throws CopyError `invalid_source` if a file has changed since */
export function archiveOf({ entries, contents }: Selection): AsyncIterable<Uint8Array> {
  return archive(entries, async function* (entry) {
    const hash = createHash('sha256');
    for await (const chunk of contentOf(entry)) {
      hash.update(chunk);
      yield chunk;
    }
    // The cache keeps the step under the digest of the file's old content.
    if (hash.digest('hex') !== contents.get(entry.path)) throw changed(entry);
  });
}

/** For a daemon, whose cache knows only what arrives. @throws DockerfileError `context_invalid` */
async function* packed(entries: readonly ContextEntry[]): AsyncGenerator<Uint8Array> {
  try {
    yield* archive(entries, contentOf);
  } catch (error) {
    throw errorCode(error) === 'invalid_source' ? contextInvalid(null, describeError(error)) : error;
  }
}

/** Reads at most the listed size: a file that keeps growing would never end. */
async function* contentOf(entry: ContextEntry): AsyncGenerator<Buffer> {
  const { from, text, bytes } = entry;
  if (from === null) {
    yield Buffer.from(text);
    return;
  }
  const file = await open(from, OPEN_FILE).catch((error: unknown) => {
    throw new CopyError('invalid_source', `${shown(from)} can't be read: ${describeError(error)}`);
  });
  let read = 0;
  for await (const chunk of file.createReadStream() as AsyncIterable<Buffer>) {
    read += chunk.length;
    if (read > bytes) throw changed(entry);
    yield chunk;
  }
}

const changed = ({ from, path }: ContextEntry): CopyError =>
  new CopyError('invalid_source', `${shown(from ?? path)} changed while the build read it`);

/** A path that was a file when it was listed may be a link or a pipe now. */
const OPEN_FILE = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

async function contentsOf(
  line: number | null,
  entries: readonly ContextEntry[],
  signal: AbortSignal,
): Promise<ReadonlyMap<string, string>> {
  const contents = new Map<string, string>();
  for (const entry of entries) {
    if (entry.type !== 'file') continue;
    const hash = createHash('sha256');
    await pipeline(contentOf(entry), hash, { signal }).catch((error: unknown) => {
      throw errorCode(error) === 'invalid_source' ? contextInvalid(line, describeError(error)) : error;
    });
    contents.set(entry.path, hash.digest('hex'));
  }
  return contents;
}

function digestOf(names: readonly string[], entries: readonly ContextEntry[], contents: Selection['contents']): string {
  const all = createHash('sha256').update(JSON.stringify(names));
  for (const { type, path, mode, target = null } of entries) {
    all.update(JSON.stringify([type, path, mode, target, contents.get(path) ?? null]));
  }
  return all.digest('hex');
}

/** `null` without such a file. */
async function rulesOf(path: string): Promise<DockerIgnore | null> {
  try {
    await using file = await open(path, OPEN_FILE & ~constants.O_NOFOLLOW);
    if (!(await file.stat()).isFile()) return null;
    const { fileBytesMax: max } = IGNORE_LIMITS;
    const { buffer, bytesRead } = await file.read(Buffer.alloc(max + 1));
    if (bytesRead > max) throw new Error('it is too large');
    return DockerIgnore.parse(buffer.toString('utf8', 0, bytesRead));
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR') return null;
    throw contextInvalid(null, path, error);
  }
}

function contextInvalid(line: number | null, what: string, cause?: unknown, remedy?: string): DockerfileError {
  const text = cause === undefined ? what : `${what} can't be read: ${describeError(cause)}`;
  return new DockerfileError('context_invalid', line, text, { remedy });
}
