/**
 * Reads requirements files as pip does: requirements with hashes, comments, continued lines, and included files.
 *
 * Only `-r` and hashes are accepted of pip's options. Others choose indexes or name files, which the host does: its own
 * pip configuration decides where packages come from.
 */
import { REQUIREMENT_LIMITS } from '../../base/request/package-policy.ts';
import { RequirementsError } from './errors.ts';

const DEPTH_MAX = 8;
const FILES_MAX = 100;

/** Options without an effect here. */
const WITHOUT_EFFECT = /^--(?:require-hashes|prefer-binary)$/;
const INCLUDE = /^(?:-r\s*|--requirement[\s=]+)(.+)$/;

/**
 * The requirements of a file and of the files that it includes, in order.
 * @param read returns the text of a file; `from` is the file that names it, `null` for the first
 * @throws RequirementsError `requirement_invalid`, and errors of `read`
 */
export async function readRequirementsFile(
  path: string,
  read: (path: string, from: string | null) => Promise<{ path: string; text: string }>,
): Promise<readonly string[]> {
  const found: string[] = [];
  let files = 0;
  const open = async (named: string, from: string | null, depth: number): Promise<void> => {
    if (depth > DEPTH_MAX) throw refused(named, 'requirements files include each other too deeply');
    files += 1;
    if (files > FILES_MAX) throw refused(named, `more than ${FILES_MAX} requirements files`);
    const file = await read(named, from);
    for (const { line, number } of logicalLines(file.text)) {
      const where = `${file.path}:${number}`;
      const included = INCLUDE.exec(line)?.[1];
      if (included !== undefined) await open(included.trim(), file.path, depth + 1);
      else if (WITHOUT_EFFECT.test(line)) continue;
      else if (line.startsWith('-')) throw refused(where, `the option "${line.slice(0, 60)}"`);
      else if (isPath(line)) throw refused(where, `a file or URL, "${line.slice(0, 60)}"`);
      else found.push(line);
      if (found.length > REQUIREMENT_LIMITS.lines) {
        throw refused(where, `more than ${REQUIREMENT_LIMITS.lines} requirements`);
      }
    }
  };
  await open(path, null, 0);
  return found;
}

/** Lines without comments, each with its first line's number; a backslash at the end continues a line. */
function logicalLines(text: string): readonly { line: string; number: number }[] {
  const lines: { line: string; number: number }[] = [];
  let begun = '';
  let beginsAt = 0;
  for (const [index, raw] of text
    .replace(/^\uFEFF/, '')
    .split(/\r\n|\r|\n/)
    .entries()) {
    if (begun === '') beginsAt = index + 1;
    const continues = /\\\s*$/.test(raw) && !/^\s*#/.test(raw);
    begun += continues ? raw.replace(/\\\s*$/, ' ') : raw;
    if (continues) continue;
    lines.push({ line: begun, number: beginsAt });
    begun = '';
  }
  lines.push({ line: begun, number: beginsAt });
  return lines
    .map(({ line, number }) => ({ line: line.replace(/(^|\s)#.*$/, '').trim(), number }))
    .filter(({ line }) => line !== '');
}

function isPath(line: string): boolean {
  return /^(?:[./~]|[A-Za-z][A-Za-z0-9+.-]*:\/\/|[A-Za-z]+\+[a-z]+:)/.test(line);
}

function refused(where: string, what: string): RequirementsError {
  return new RequirementsError('requirement_invalid', `${where}: ${what} can't be followed`, {
    remedy:
      'name packages of the index; where they come from is set by pip on this host (pip config), ' +
      'and files of yours come with --copy',
  });
}
