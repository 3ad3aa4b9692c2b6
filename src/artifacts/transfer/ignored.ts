/**
 * Selects files that do not belong to a project: caches, environments and its version history, and those that its
 * `.gitignore` files and its `.dockerignore` list.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import ignore, { type Ignore } from 'ignore';
import { describeError, errorCode } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import { DockerIgnore, type Verdict } from './docker-ignore.ts';
import { CopyError } from './transfer.ts';

/** At any depth. */
const NEVER: ReadonlySet<string> = new Set(['__pycache__', '.venv', 'node_modules']);
/**
 * A guest that could write `.git` would run programs here: its hooks. Includes its names on mounted case-insensitive
 * and Windows file systems, which git refuses, too.
 */
const GIT_DIRECTORY = /^(?:\.git|git~\d+)[ .]*$/i;
const RULES_BYTES_MAX = MIB;
/** Limit in one line. The time of a match grows with the depth of a path to this power. */
const ANY_DEPTHS_MAX = 3;

export class IgnoreRules {
  /** Rules of `.gitignore` by directory; `''` is the project itself. */
  readonly #rules = new Map<string, Ignore>();
  #docker: DockerIgnore | null = null;
  readonly #verdicts = new Map<string, Verdict>();

  /** Reads the rules of a directory. Call before judging its entries. @param path relative to the project */
  async enter(project: string, path: string): Promise<void> {
    this.add(path, await rulesOf(join(project, path, '.gitignore')));
    if (path !== '') return;
    const docker = join(project, '.dockerignore');
    try {
      this.#docker = DockerIgnore.parse(await rulesOf(docker));
    } catch (error) {
      if (error instanceof CopyError) throw error;
      throw new CopyError('invalid_source', `${docker}: ${describeError(error)}`);
    }
  }

  /** @param text lines as in `.gitignore` */
  add(path: string, text: string): void {
    if (text.trim() !== '') this.#rules.set(path, ignore({ ignorecase: false }).add(text));
  }

  /**
   * True if the entry does not belong to the project; for a directory, with everything below it.
   * @param path relative to the project; its directories must not be ignored
   */
  ignores(path: string, isDirectory: boolean): boolean {
    const components = path.split('/');
    const name = components.at(-1) ?? '';
    if (NEVER.has(name) || GIT_DIRECTORY.test(name)) return true;
    if (this.#isIgnoredByGit(components, isDirectory)) return true;
    const mayHaveExceptions = isDirectory && this.#docker?.hasExceptions === true;
    return !mayHaveExceptions && this.#isIgnoredByDocker(path);
  }

  /**
   * Removes directories that `.dockerignore` ignores, unless an exception includes something below them.
   * @param entries parents first
   */
  withoutEmptyPassages<T extends { readonly path: string }>(
    entries: readonly T[],
    isDirectory: (entry: T) => boolean,
  ): readonly T[] {
    if (this.#docker?.hasExceptions !== true) return entries;
    const needed = new Set<string>();
    const kept = entries.toReversed().filter((entry) => {
      const { path } = entry;
      if (path === '') return true;
      if (isDirectory(entry) && !needed.has(path) && this.#isIgnoredByDocker(path)) return false;
      needed.add(dirname(path));
      return true;
    });
    return kept.reverse();
  }

  #isIgnoredByGit(components: readonly string[], isDirectory: boolean): boolean {
    let ignored = false;
    // As in git, the rules of a deeper directory come later, and the last match applies.
    for (let depth = 0; depth < components.length; depth += 1) {
      const rules = this.#rules.get(components.slice(0, depth).join('/'));
      if (rules === undefined) continue;
      const below = components.slice(depth).join('/');
      const result = rules.test(isDirectory ? `${below}/` : below);
      if (result.ignored) ignored = true;
      else if (result.unignored) ignored = false;
    }
    return ignored;
  }

  #isIgnoredByDocker(path: string): boolean {
    const docker = this.#docker;
    if (docker === null) return false;
    return docker.judge(path, this.#verdictAbove(docker, path)).ignored;
  }

  #verdictAbove(docker: DockerIgnore, path: string): Verdict | null {
    const above = dirname(path);
    if (above === '.') return null;
    let verdict = this.#verdicts.get(above);
    if (verdict === undefined) {
      verdict = docker.judge(above, this.#verdictAbove(docker, above));
      this.#verdicts.set(above, verdict);
    }
    return verdict;
  }
}

async function rulesOf(path: string): Promise<string> {
  try {
    // A stranger's project may have a pipe here, or a link to /dev/zero.
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const info = await file.stat();
    if (!info.isFile()) return '';
    const { buffer, bytesRead } = await file.read(Buffer.alloc(RULES_BYTES_MAX + 1));
    if (bytesRead > RULES_BYTES_MAX) {
      throw new CopyError('invalid_source', `${path} is larger than ${RULES_BYTES_MAX / MIB} MiB`);
    }
    return checked(path, buffer.toString('utf8', 0, bytesRead));
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ELOOP' || code === 'ENXIO') return '';
    throw error;
  }
}

/** @throws CopyError `invalid_source` if a line could take forever to match */
function checked(path: string, text: string): string {
  const at = text.split('\n').findIndex((line) => line.split(/(?:^|\/)\*\*+(?=\/|\s*$)/).length - 1 > ANY_DEPTHS_MAX);
  if (at < 0) return text;
  throw new CopyError('invalid_source', `${path}: line ${at + 1} has more than ${ANY_DEPTHS_MAX} times **`, {
    remedy: 'make several lines of it',
  });
}
