import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SecretValue } from '../../../base/request/secret-value.ts';
import { Matcher, type Pattern } from './matcher.ts';
import { Scrubber } from './scrubber.ts';
import { matcherOf } from './secret.ts';

const RUNS = { numRuns: 3000 };
/** Short, so that one word can be longer than what is held back. */
const LENGTH_MAX = 3;
// A small alphabet, so that texts overlap, contain and begin one another, and spellings are ambiguous.
const letter = fc.constantFrom('a', 'b', '%', '6', '1');
const patterns = fc.array(
  fc.string({ unit: letter, minLength: 1, maxLength: LENGTH_MAX }).map((find): Pattern => ({ find, put: 'XYZXYZ' })),
  { minLength: 1, maxLength: 4 },
);
const unit = fc.oneof(
  { weight: 3, arbitrary: letter },
  fc.constantFrom('%61', '%25', '\\u0061', '&#98;', '&#x62;', '\\x61', '\\%', '&', '\\'),
);
const word = fc.string({ unit, maxLength: 60 });
const text = fc.oneof(
  word,
  fc.array(word, { maxLength: 4 }).map((words) => words.join(' ')),
);
const cuts = fc.array(fc.nat({ max: 20 }), { maxLength: 20 });

function spellingsOf(letterOf: string): string[] {
  const code = letterOf.charCodeAt(0);
  const hex = code.toString(16);
  const escaped = /[^a-z0-9]/.test(letterOf) ? [`\\${letterOf}`] : [];
  const coded = [`%${hex}`, `\\u00${hex}`, `\\x${hex}`, `&#${code};`, `&#x${hex};`];
  return [letterOf, ...coded, ...escaped];
}

/** All ends of matches of `find`, in any spelling, that begin at `start`. */
function endsOf(bytes: string, find: string, start: number): number[] {
  let ends = [start];
  for (const one of find)
    ends = ends.flatMap((end) =>
      spellingsOf(one)
        .filter((spelling) => bytes.startsWith(spelling, end))
        .map((spelling) => end + spelling.length),
    );
  return ends;
}

/** The reference without streaming: leftmost match, longest first; masks the rest of overlapping matches. */
function naive(list: readonly Pattern[], bytes: string): string {
  const out = [...bytes];
  let covered = 0;
  for (let start = 0; start < bytes.length; start += 1) {
    const ends = list.flatMap(({ find }) => endsOf(bytes, find, start));
    const end = Math.max(0, ...ends);
    const put = 'XYZXYZ'.padEnd(end, '*');
    for (let at = Math.max(start, covered); at < end; at += 1)
      out[at] = start >= covered ? put.charAt(at - start) : '*';
    covered = Math.max(covered, end);
  }
  return out.join('');
}

function pieces(matcher: Matcher, bytes: string, sizes: readonly number[]): string[] {
  const scrubber = new Scrubber(matcher);
  const out: string[] = [];
  let rest = Buffer.from(bytes, 'latin1');
  for (const size of sizes) {
    out.push(scrubber.push(rest.subarray(0, size)).toString('latin1'));
    rest = rest.subarray(size);
  }
  out.push(scrubber.push(rest).toString('latin1'), scrubber.end().toString('latin1'));
  return out;
}

describe('Scrubber properties', () => {
  it('output is the same however the text is cut', () => {
    fc.assert(
      fc.property(patterns, text, cuts, (list, bytes, sizes) => {
        const out = pieces(new Matcher(list, LENGTH_MAX), bytes, sizes).join('');
        expect(out).toBe(naive(list, bytes));
      }),
      RUNS,
    );
  });
  it('the length held back does not depend on the secrets', () => {
    fc.assert(
      fc.property(patterns, patterns, text, cuts, (some, others, bytes, sizes) => {
        const lengths = (list: readonly Pattern[]): number[] =>
          pieces(new Matcher(list, LENGTH_MAX), bytes, sizes).map(({ length }) => length);
        expect(lengths(some)).toEqual(lengths(others));
      }),
      RUNS,
    );
  });
  it('replaces the longest spelling within a word, one byte at a time', () => {
    const longest = [...'bab'].map((one) => `\\u00${one.charCodeAt(0).toString(16)}`).join('');
    const bytes = `${'a'.repeat(50)}${longest}${'a'.repeat(50)}`;
    const sizes = Array.from({ length: bytes.length }, () => 1);
    const list: Pattern[] = [{ find: 'bab', put: 'XYZXYZ' }];
    expect(pieces(new Matcher(list, LENGTH_MAX), bytes, sizes).join('')).toBe(naive(list, bytes));
  });
  it('holds back only visible characters', () => {
    fc.assert(
      fc.property(patterns, text, (list, bytes) => {
        const [out = ''] = pieces(new Matcher(list, LENGTH_MAX), bytes, [bytes.length]);
        expect(bytes.slice(out.length)).not.toContain(' ');
      }),
      RUNS,
    );
  });
  it('replaces base64 of a secret at any offset by base64 of its placeholder', () => {
    const visible = fc.string({
      unit: fc.integer({ min: 0x21, max: 0x7e }).map((code) => String.fromCharCode(code)),
      minLength: 16,
      maxLength: 24,
    });
    const any = fc.string({ unit: 'binary', maxLength: 9 }).map((one) => one.slice(0, 9));
    const alphabet = fc.constantFrom('base64' as const, 'base64url' as const);
    fc.assert(
      fc.property(visible, any, any, alphabet, cuts, (value, before, after, how, sizes) => {
        const placeholder = 'NV_aaaaaaaaaaaaaaaaaaaaaaaaa'.slice(0, value.length);
        const secret = { name: 'K', hosts: ['h'], places: [], placeholder, value: new SecretValue(value) };
        const encode = (middle: string): string =>
          Buffer.concat([Buffer.from(before), Buffer.from(middle), Buffer.from(after)]).toString(how);
        const out = pieces(matcherOf([secret], 'h'), `x ${encode(value)} y`, sizes).join('');
        // At the edges the base64 alphabet is ambiguous.
        const plain = (text: string): string => text.replaceAll('-', '+').replaceAll('_', '/');
        expect(plain(out)).toBe(plain(`x ${encode(placeholder)} y`));
      }),
      RUNS,
    );
  });
});
