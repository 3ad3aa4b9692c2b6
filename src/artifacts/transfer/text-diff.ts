/** Unified diffs for people, of bounded size and time, since one side comes from a guest. */
import { isUtf8 } from 'node:buffer';
import { createTwoFilesPatch, FILE_HEADERS_ONLY } from 'diff';
import { KIB } from '../../base/units.ts';

/** For a larger file only name and size are shown. */
export const DIFF_BYTES_MAX = 256 * KIB;
/** Limit of added and removed lines of one file; the time of a comparison grows with their square. */
const EDITS_MAX = 1_000;

/**
 * @param before `null` if the file is new
 * @param after `null` if the file was deleted
 * @returns text with headers, like `diff -u`; `null` if it is binary, too large, or too different
 */
export function textDiff(path: string, before: Buffer | null, after: Buffer | null): string | null {
  const [from, to] = [before ?? Buffer.alloc(0), after ?? Buffer.alloc(0)];
  if (!isText(from) || !isText(to)) return null;
  const patch = createTwoFilesPatch(
    before === null ? '/dev/null' : `a/${path}`,
    after === null ? '/dev/null' : `b/${path}`,
    from.toString('utf8'),
    to.toString('utf8'),
    undefined,
    undefined,
    { context: 3, maxEditLength: EDITS_MAX, headerOptions: FILE_HEADERS_ONLY },
  );
  return patch ?? null;
}

/** True if its diff could be shown. */
export const isText = (bytes: Buffer): boolean => bytes.length <= DIFF_BYTES_MAX && isUtf8(bytes) && !bytes.includes(0);
