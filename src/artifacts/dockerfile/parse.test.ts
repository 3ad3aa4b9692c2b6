// biome-ignore-all lint/suspicious/noTemplateCurlyInString: variables of Dockerfiles
import { describe, expect, it } from 'vitest';
import { parseDockerfile } from './parse.ts';

const parse = (text: string) => parseDockerfile(Buffer.from(text)).instructions;
const failing = (text: string) => () => parse(text);

describe('parseDockerfile', () => {
  it('lines: joins an instruction over several lines, with comments and empty lines between them', () => {
    const [from, run, last] = parse('# c\nFROM a\n\nrun x \\\n # inner\n\n  y\nCMD z');
    expect(from).toMatchObject({ keyword: 'FROM', line: 2, rest: 'a' });
    expect(run).toMatchObject({ keyword: 'RUN', line: 4, rest: 'x   y' });
    expect(last).toMatchObject({ keyword: 'CMD', line: 8 });
  });

  it('escape: the directive replaces the backslash', () => {
    const [, run] = parse('# escape=`\nFROM a\nRUN c:\\ `\n  b');
    expect(run).toMatchObject({ rest: 'c:\\   b' });
  });

  it('CRLF: ends lines as in other files', () => {
    expect(parse('FROM a\r\nRUN b \\\r\n c\r\n')[1]).toMatchObject({ rest: 'b  c' });
  });

  it('flags: must come first, and may be quoted', () => {
    const [, run] = parse('FROM a\nRUN --mount=type=cache,target="/a b" --network=none x --y');
    expect(run?.flags).toEqual([
      { name: 'mount', value: 'type=cache,target=/a b' },
      { name: 'network', value: 'none' },
    ]);
    expect(run?.rest).toBe('x --y');
  });

  it('heredocs: reads several, quoted names, tabs', () => {
    const [, copy] = parse('FROM a\nCOPY <<a.txt <<-"b" /x/\none $A\na.txt\n\ttwo\n\tb\nCMD x');
    expect(copy?.heredocs).toEqual([
      { name: 'a.txt', expands: true, content: 'one $A\n' },
      { name: 'b', expands: false, content: 'two\n' },
    ]);
    const [, run] = parse('FROM a\nRUN cat <<E && echo\nx\nE');
    expect(run?.script).toBe('cat <<E && echo\nx\nE');
  });

  it.each([
    'RUN echo "<<E"',
    'RUN echo "a <<E b"',
    "RUN echo 'a <<E b' \\\n  c",
    'RUN echo \\<<E',
    'RUN echo a<<E',
    'RUN cat <<<E',
    'RUN echo "${A:- <<E }"',
    'RUN echo $((1 << 2))',
    'CMD echo <<E',
  ])('heredocs: finds none in %j', (line) => {
    const found = parse(`FROM a\n${line}\nRUN b\nCMD c`);
    expect(found.map(({ keyword }) => keyword)).toEqual(['FROM', line.slice(0, 3), 'RUN', 'CMD']);
    expect(found[1]?.heredocs).toEqual([]);
  });

  it('heredocs: finds one beside a quoted mark', () => {
    const [, run, last] = parse('FROM a\nRUN cat <<E - "a <<F"\nx\nE\nRUN y');
    expect(run?.heredocs.map(({ name }) => name)).toEqual(['E']);
    expect(last).toMatchObject({ line: 5, rest: 'y' });
  });

  it('escape: two of them at the end of a line do not continue it', () => {
    expect(parse('FROM a\nRUN echo b\\\\\nRUN c').map(({ rest }) => rest)).toEqual(['a', 'echo b\\\\', 'c']);
  });

  it.each([
    ['# Escape = `\nFROM a\nRUN b `\n c', 'b  c'],
    ['# syntax=x\n# escape=`\nFROM a\nRUN b `\n c', 'b  c'],
    // After anything else it is a comment.
    ['# c\n# escape=`\nFROM a\nRUN b \\\n c', 'b  c'],
    ['\n# escape=`\nFROM a\nRUN b \\\n c', 'b  c'],
  ])('directives must come first: %j', (text, rest) => {
    expect(parse(text)[1]).toMatchObject({ rest });
  });

  it('heredocs: treats a comment and a backslash in one as content', () => {
    const [, run] = parse('FROM a\nRUN <<E\n# c\nx \\\ny\nE\nCMD z');
    expect(run?.heredocs[0]?.content).toBe('# c\nx \\\ny\n');
  });

  it.each([
    ['FROM a\nRUN <<E\nx', 'line 2: the heredoc E has no end'],
    ['FROM a\nRUN <<E>f\nx\nE\nRUN y', 'line 2: it is not clear where the heredoc E ends'],
    ['FROM a\nRUN <<E; echo\nx\nE', 'line 2: it is not clear where the heredoc E ends'],
    ['# escape=x\nFROM a', 'line 1: "x" is not an escape character'],
    ['FROM a\nRUN a\rRUN b\nRUN c', 'line 2: a carriage return'],
    ['FROM a\nRUN a\0b', 'line 2: a NUL character'],
    ['FROM a\nRUN --=x y', 'line 2: "--=x" is not a flag'],
  ])('refuses %j: %s', (text, message) => {
    expect(failing(text)).toThrow(message);
  });

  it('size: bounds files and lists of instructions', () => {
    expect(failing(`FROM a\n${'x'.repeat(1 << 20)}`)).toThrow('larger than');
    expect(failing(`FROM a\n${'RUN x\n'.repeat(1000)}`)).toThrow('more than 1000');
    expect(() => parseDockerfile(Buffer.from([0x46, 0xff]))).toThrow('not UTF-8');
  });
});
