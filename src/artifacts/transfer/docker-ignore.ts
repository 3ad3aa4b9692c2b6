/** The rules of .dockerignore, as Docker applies them. Pure. */
import { compile, matches, type Pattern } from '../../base/text/glob.ts';
import { MIB } from '../../base/units.ts';

export const IGNORE_LIMITS = { fileBytesMax: MIB, patternsMax: 1_000, patternCharactersMax: 1_024 } as const;

interface Rule {
  readonly pattern: Pattern;
  readonly isException: boolean;
}

export interface Verdict {
  readonly ignored: boolean;
  /** By rule: whether it matches the path or a directory above it. */
  readonly matched: Uint8Array;
}

/** The rules of a .dockerignore: the last one that matches a path, or one of its directories, decides. */
export class DockerIgnore {
  readonly #rules: readonly Rule[];

  private constructor(rules: readonly Rule[]) {
    this.#rules = rules;
  }

  /** @throws Error naming the wrong line */
  static parse(text: string): DockerIgnore {
    const rules: Rule[] = [];
    for (const [index, raw] of text
      .replace(/^\ufeff/, '')
      .split(/\r?\n/)
      .entries()) {
      const line = raw.trim();
      if (line === '' || raw.startsWith('#')) continue;
      if (rules.length >= IGNORE_LIMITS.patternsMax) throw new Error('it has too many lines');
      if (line.length > IGNORE_LIMITS.patternCharactersMax) {
        throw new Error(`line ${index + 1} is too long`);
      }
      const isException = line.startsWith('!');
      const path = cleanPath(isException ? line.slice(1).trim() : line);
      // `.` alone is no rule, as in Docker.
      if (path === '' && !isException) continue;
      const pattern = compile(path, true);
      if (pattern === null || path === '') throw new Error(`line ${index + 1} is not a pattern`);
      rules.push({ pattern, isException });
    }
    return new DockerIgnore(rules);
  }

  /**
   * @param path relative to the context. @param above verdict of its directory; `null` if it is in the context itself
   */
  judge(path: string, above: Verdict | null): Verdict {
    const matched = new Uint8Array(this.#rules.length);
    let ignored = false;
    for (const [index, { pattern, isException }] of this.#rules.entries()) {
      if (above?.matched[index] !== 1 && !matches(pattern, path)) continue;
      matched[index] = 1;
      ignored = !isException;
    }
    return { ignored, matched };
  }

  /** True if something below an ignored directory may not be ignored. */
  get hasExceptions(): boolean {
    return this.#rules.some(({ isException }) => isException);
  }
}

/** Strips `.`, leading `..`, doubled and outer slashes. */
export function cleanPath(path: string): string {
  const out: string[] = [];
  for (const part of path.split('/')) {
    if (part === '..') out.pop();
    else if (part !== '' && part !== '.') out.push(part);
  }
  return out.join('/');
}
