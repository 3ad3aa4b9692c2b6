import { describe, expect, it } from 'vitest';
import { parseAliases, parseCount, parseDuration, parseEnv, parseMemory, parsePairs, parseRate } from './options.ts';

const usage = expect.objectContaining({ code: 'usage' });

describe('options', () => {
  it.each([
    ['90', 90_000],
    ['90s', 90_000],
    ['1.5m', 90_000],
    ['2h', 7_200_000],
    ['500ms', 500],
  ])('parseDuration: %s', (text, ms) => expect(parseDuration(text)).toBe(ms));
  it.each(['', 'soon', '-1', '1w', '1 s'])('parseDuration: rejects "%s"', (text) => {
    expect(() => parseDuration(text)).toThrow(usage);
  });

  it.each([
    ['512', 512],
    ['512M', 512],
    ['2G', 2048],
    ['1.5GiB', 1536],
    ['256mb', 256],
  ])('parseMemory: %s', (text, mib) => expect(parseMemory(text)).toBe(mib));
  it.each(['', 'lots', '2T', '-5'])('parseMemory: rejects "%s"', (text) => {
    expect(() => parseMemory(text)).toThrow(usage);
  });

  it('parseCount: accepts only whole numbers', () => {
    expect(parseCount('4')).toBe(4);
    for (const text of ['', '1.5', '-1', '0x10']) expect(() => parseCount(text)).toThrow(usage);
  });

  it('parseEnv: parses NAME=VALUE, values with =, and NAME from the host', () => {
    expect(parseEnv(['A=1', 'B=x=y', 'C=', 'D'], { D: 'host' })).toEqual({ A: '1', B: 'x=y', C: '', D: 'host' });
  });
  it.each(['=1', '1A=2', 'A B=1', 'UNSET'])('parseEnv: rejects "%s"', (text) => {
    expect(() => parseEnv([text], {})).toThrow(usage);
  });

  it('parsePairs: splits at the first = and accepts any key', () => {
    expect(parsePairs(['a=b=c', 'empty=', '__proto__=x'], '-l')).toEqual(
      Object.fromEntries([
        ['a', 'b=c'],
        ['empty', ''],
        ['__proto__', 'x'],
      ]),
    );
    for (const text of ['x', '=x', '']) expect(() => parsePairs([text], '-l')).toThrow(usage);
  });

  it('parseAliases: accepts only pairs', () => {
    expect(parseAliases(['gpt-4o=llama3'])).toEqual({ 'gpt-4o': 'llama3' });
    for (const text of ['x', '=x', 'x=']) expect(() => parseAliases([text])).toThrow(usage);
  });

  it('parseRate: parses bytes per second', () => {
    expect(parseRate('5M')).toBe(5 * 1024 * 1024);
    expect(parseRate('100')).toBe(100);
    expect(() => parseRate('fast')).toThrow(usage);
  });
});
