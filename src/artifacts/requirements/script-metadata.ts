/**
 * Inline metadata of a script (PEP 723), as `uv run` and `pipx run` read it:
 *
 *     # /// script
 *     # requires-python = ">=3.11"
 *     # dependencies = ["pandas", "rich"]
 *     # ///
 */
import { parse, type TomlTable } from 'smol-toml';
import { RequirementsError } from './errors.ts';
import { textOf, textsOf } from './toml.ts';

export interface ScriptMetadata {
  readonly dependencies: readonly string[];
  /** PEP 440 specifiers; `null` for any. */
  readonly requiresPython: string | null;
}
const BLOCK_CHARACTERS_MAX = 100_000;
/** Settings of uv that take packages from elsewhere; others may be ignored. */
const SOURCES_OF_UV = ['sources', 'index', 'index-url', 'extra-index-url', 'find-links'];

/** @returns `null` if the script has none @throws RequirementsError `project_invalid` */
export function scriptMetadata(code: string): ScriptMetadata | null {
  const blocks = blocksOf(code);
  const [block] = blocks;
  if (block === undefined) return null;
  if (blocks.length > 1) throw invalid('it has more than one block "# /// script"');
  const table = parseBlock(block);
  for (const setting of SOURCES_OF_UV) {
    if (!hasKey(table, 'tool', 'uv', setting)) continue;
    throw invalid(`[tool.uv] ${setting}: packages come from the index of this host only`);
  }
  return {
    dependencies: textsOf(table['dependencies'], (why) => invalid(`dependencies: ${why}`)),
    requiresPython: textOf(table['requires-python'], (why) => invalid(`requires-python: ${why}`)),
  };
}

/** According to the PEP, a block ends with the last line `# ///` of its run of comment lines. */
function blocksOf(code: string): readonly string[] {
  const lines = code.split(/\r?\n/);
  const blocks: string[] = [];
  for (let at = 0; at < lines.length; at++) {
    if (!/^# \/\/\/ script[ \t]*$/.test(lines[at] ?? '')) continue;
    const begin = at + 1;
    let end = begin;
    while (/^#(?: .*)?$/.test(lines[end] ?? '')) end++;
    const run = lines.slice(begin, end);
    const last = run.findLastIndex((line) => /^# \/\/\/[ \t]*$/.test(line));
    if (last < 0) throw invalid('the block "# /// script" is not closed by "# ///"');
    const block = run.slice(0, last);
    if (block.some((line) => /^# \/\/\/ script[ \t]*$/.test(line))) {
      throw invalid('it has more than one block "# /// script"');
    }
    blocks.push(block.map((line) => line.replace(/^# ?/, '')).join('\n'));
    at = begin + last;
  }
  return blocks;
}

function parseBlock(block: string): TomlTable {
  if (block.length > BLOCK_CHARACTERS_MAX) throw invalid('the block is too long');
  try {
    return parse(block);
  } catch (error) {
    throw invalid('the block is not TOML', error);
  }
}

function hasKey(value: unknown, ...path: readonly string[]): boolean {
  const [key, ...rest] = path;
  if (key === undefined) return true;
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return false;
  return hasKey((value as Record<string, unknown>)[key], ...rest);
}

function invalid(why: string, cause?: unknown): RequirementsError {
  return new RequirementsError('project_invalid', `the script's metadata can't be used: ${why}`, {
    cause,
    remedy: 'correct the block between "# /// script" and "# ///" (PEP 723)',
  });
}
