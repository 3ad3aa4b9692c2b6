import { describe, expect, it } from 'vitest';
import { parseDockerfile } from './parse.ts';

const parse = (text: string) => parseDockerfile(Buffer.from(text)).instructions;
const failing = (text: string) => () => parse(text);

describe('parseDockerfile', () => {
  it('lines: an instruction may go over lines, with comments and empty lines between them', () => {
    const [from, run, last] = parse('# c\nFROM a\n\nrun x \\\n # inner\n\n  y\nCMD z');
    expect(from).toMatchObject({ keyword: 'FROM', line: 2, rest: 'a' });
    expect(run).toMatchObject({ keyword: 'RUN', line: 4, rest: 'x   y' });
    expect(last).toMatchObject({ keyword: 'CMD', line: 8 });
  });

  it('escape: the directive replaces the backslash', () => {
    const [, run] = parse('# escape=`\nFROM a\nRUN c:\\ `\n  b');
    expect(run).toMatchObject({ rest: 'c:\\   b' });
  });

  it('CRLF: lines end as in other files', () => {
    expect(parse('FROM a\r\nRUN b \\\r\n c\r\n')[1]).toMatchObject({ rest: 'b  c' });
  });

  it('flags: they come first, and may be quoted', () => {
    const [, run] = parse('FROM a\nRUN --mount=type=cache,target="/a b" --network=none x --y');
    expect(run?.flags).toEqual([
      { name: 'mount', value: 'type=cache,target=/a b' },
      { name: 'network', value: 'none' },
    ]);
    expect(run?.rest).toBe('x --y');
  });

  it('heredocs: several, quoted names, tabs', () => {
    const [, copy] = parse('FROM a\nCOPY <<a.txt <<-"b" /x/\none $A\na.txt\n\ttwo\n\tb\nCMD x');
    expect(copy?.heredocs).toEqual([
      { name: 'a.txt', expands: true, content: 'one $A\n' },
      { name: 'b', expands: false, content: 'two\n' },
    ]);
    const [, run] = parse('FROM a\nRUN cat <<E && echo\nx\nE');
    expect(run?.script).toBe('cat <<E && echo\nx\nE');
  });

  it('heredocs: a comment and a backslash in one are content', () => {
    const [, run] = parse('FROM a\nRUN <<E\n# c\nx \\\ny\nE\nCMD z');
    expect(run?.heredocs[0]?.content).toBe('# c\nx \\\ny\n');
  });

  it.each([
    ['FROM a\nRUN <<E\nx', 'line 2: the heredoc E has no end'],
    ['FROM a\nRUN <<E>f\nx\nE\nRUN y', 'line 2: it is not clear where the heredoc E ends'],
    ['FROM a\nRUN a\rRUN b\nRUN c', 'line 2: a carriage return'],
    ['FROM a\nRUN a\0b', 'line 2: a NUL character'],
    ['FROM a\nRUN --=x y', 'line 2: "--=x" is not a flag'],
  ])('%j is refused: %s', (text, message) => {
    expect(failing(text)).toThrow(message);
  });

  it('size: files and lists of instructions are bounded', () => {
    expect(failing(`FROM a\n${'x'.repeat(1 << 20)}`)).toThrow('larger than');
    expect(failing(`FROM a\n${'RUN x\n'.repeat(1000)}`)).toThrow('more than 1000');
    expect(() => parseDockerfile(Buffer.from([0x46, 0xff]))).toThrow('not UTF-8');
  });
});
