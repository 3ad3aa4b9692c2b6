import { describe, expect, it } from 'vitest';
import { scriptMetadata } from './script-metadata.ts';

const script = (...lines: readonly string[]): string =>
  ['#!/usr/bin/env python3', '# /// script', ...lines.map((line) => `# ${line}`.trimEnd()), '# ///', 'import x'].join(
    '\n',
  );

describe('scriptMetadata', () => {
  it('reads dependencies and the required Python', () => {
    const code = script('requires-python = ">=3.11"', 'dependencies = [', '  "requests<3",', '', '  "rich",', ']');
    expect(scriptMetadata(code)).toEqual({ dependencies: ['requests<3', 'rich'], requiresPython: '>=3.11' });
    expect(scriptMetadata(code.replaceAll('\n', '\r\n'))).toEqual(scriptMetadata(code));
  });

  it.each([['print(1)\n'], ['# /// pyproject\n# a = 1\n# ///\n'], ['x = """\n /// script\n"""']])(
    'finds no metadata in %j',
    (code) => expect(scriptMetadata(code)).toBeNull(),
  );

  it('an empty block requires nothing', () => {
    expect(scriptMetadata(script())).toEqual({ dependencies: [], requiresPython: null });
  });

  it('ignores tables of other tools, and settings of uv that choose no other package', () => {
    const code = script('dependencies = ["a"]', '[tool.uv]', 'exclude-newer = "2025-01-01T00:00:00Z"');
    expect(scriptMetadata(code)?.dependencies).toEqual(['a']);
  });

  it.each([
    [script('dependencies = "a"'), 'list of strings'],
    [script('dependencies = [1]'), 'list of strings'],
    [script('requires-python = 3'), 'must be a string'],
    [script('dependencies = ["a"'), 'not TOML'],
    ['# /// script\n# a = 1\nprint(1)', 'not closed'],
    [`${script('dependencies = []')}\n${script()}`, 'more than one'],
    [script('[[tool.uv.index]]', 'url = "https://example.org"'), '[tool.uv] index'],
    [script('[tool.uv.sources]', 'a = { path = "." }'), '[tool.uv] sources'],
  ])('refuses %j', (code, why) => {
    expect(() => scriptMetadata(code)).toThrow(
      expect.objectContaining({ code: 'project_invalid', message: expect.stringContaining(why) }),
    );
  });
});
