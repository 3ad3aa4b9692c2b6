import { describe, expect, it } from 'vitest';
import { DIFF_BYTES_MAX, textDiff } from './text-diff.ts';

const text = (...lines: string[]): Buffer => Buffer.from(lines.join('\n'));

describe('textDiff', () => {
  it('shows changed, new and deleted files like `diff -u`', () => {
    expect(textDiff('a.txt', text('one', 'two', ''), text('one', '2', ''))).toBe(
      '--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n',
    );
    expect(textDiff('a', null, text('x', ''))).toBe('--- /dev/null\n+++ b/a\n@@ -0,0 +1,1 @@\n+x\n');
    expect(textDiff('a', text('x', ''), null)).toBe('--- a/a\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-x\n');
  });

  it.each([
    ['a NUL byte', Buffer.from('a\0b')],
    ['bytes that are not UTF-8', Buffer.from([0xff, 0xfe])],
    ['more bytes than the limit', Buffer.alloc(DIFF_BYTES_MAX + 1, 'x')],
  ])('%s: returns no diff', (_what, after) => {
    expect(textDiff('a', text('x'), after)).toBeNull();
    expect(textDiff('a', after, text('x'))).toBeNull();
  });

  it('two texts without a common line stop at the limit of edits', () => {
    const lines = (mark: string): Buffer => text(...Array.from({ length: 30_000 }, (_, n) => `${mark}${n}`));
    expect(textDiff('a', lines('a'), lines('b'))).toBeNull();
  });
});
