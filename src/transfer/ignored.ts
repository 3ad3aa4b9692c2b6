/**
 * Files of a project that are no part of it: caches, environments and the history of its versions, and what its
 * `.gitignore` files and its `.dockerignore` list.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import ignore, { type Ignore } from 'ignore';
import { errorCode } from '../base/errors.ts';
import { MIB } from '../base/units.ts';
import { CopyError } from './transfer.ts';

/** At any depth. A guest that could write `.git` would run programs here: its hooks. */
const NEVER: ReadonlySet<string> = new Set(['.git', '__pycache__', '.venv', 'node_modules']);
const RULES_BYTES_MAX = MIB;

export class IgnoreRules {
  /** Rules by directory, `''` the project itself. */
  readonly #rules = new Map<string, Ignore>();

  /** Reads the rules of a directory before its entries are asked for. @param path relative to the project */
  async enter(project: string, path: string): Promise<void> {
    const texts = [await rulesOf(join(project, path, '.gitignore'))];
    if (path === '') texts.push(fromDocker(await rulesOf(join(project, '.dockerignore'))));
    this.add(path, texts.join('\n'));
  }

  /** @param text lines as of `.gitignore` */
  add(path: string, text: string): void {
    if (text.trim() !== '') this.#rules.set(path, ignore().add(text));
  }

  /** @param path relative to the project; its directories are not ignored */
  ignores(path: string, isDirectory: boolean): boolean {
    const components = path.split('/');
    if (NEVER.has(components.at(-1) ?? '')) return true;
    let ignored = false;
    // As git: the rules of a deeper directory come later, and the last match counts.
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
}

async function rulesOf(path: string): Promise<string> {
  try {
    const bytes = await readFile(path);
    if (bytes.length > RULES_BYTES_MAX) {
      throw new CopyError('invalid_source', `${path} is larger than ${RULES_BYTES_MAX / MIB} MiB`);
    }
    return bytes.toString('utf8');
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ENOENT' || code === 'EISDIR' || code === 'ENOTDIR') return '';
    throw error;
  }
}

/** Docker matches from the top: `*.log` there is `/*.log` of git. */
export function fromDocker(text: string): string {
  return text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const isException = line.startsWith('!');
      const pattern = (isException ? line.slice(1) : line).replace(/^\.?\//, '');
      return `${isException ? '!' : ''}/${pattern}`;
    })
    .join('\n');
}
