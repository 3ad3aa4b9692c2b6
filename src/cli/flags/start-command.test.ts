import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { readStart, withHealthcheck } from './start-command.ts';

const ASKED = { command: 'serve', ready: null, readyTimeoutMs: 1 };
const check = (kind: 'none' | 'exec' | 'shell', ...command: string[]) => ({
  healthcheck: { kind, command, intervalMs: 1, timeoutMs: 1, retries: 1 },
});

describe('readStart', () => {
  it('a start command without --ready is for an image alone, which may have a health check', () => {
    const flags = { start: 'serve', name: 'web' };
    expect(readStart(flags, true)).toEqual({ command: 'serve', ready: null, readyTimeoutMs: 120_000 });
    expect(() => readStart(flags, false)).toThrow('--start needs --ready');
    expect(() => readStart({ start: 'serve' }, true)).toThrow('--start needs --name');
    expect(() => readStart({ ready: 'true' }, true)).toThrow('--ready needs --start');
    expect(readStart({}, false)).toBeUndefined();
  });
});

describe('withHealthcheck', () => {
  const readyOf = (config: Parameters<typeof withHealthcheck>[1]): string =>
    withHealthcheck(ASKED, config, 'the image app:1').ready;

  it('the shell form is a command as it is', () => {
    const line = 'curl -f "http://localhost/$P" || exit 1';
    expect(readyOf(check('shell', line))).toBe(line);
  });

  it('the words of the exec form reach the program, whatever a shell would make of them', () => {
    const words = ['a b', "it's", '$HOME `x`', '', '\\', '*', '-n', 'two\nlines'];
    const line = readyOf(check('exec', 'printf', '%s|', ...words));
    const said = execFileSync('sh', ['-c', line], { encoding: 'utf8' });
    expect(said).toBe(words.map((word) => `${word}|`).join(''));
  });

  it('--ready replaces it', () => {
    const asked = { ...ASKED, ready: 'true' };
    expect(withHealthcheck(asked, check('shell', 'x'), 'it').ready).toBe('true');
    expect(withHealthcheck(asked, { healthcheck: null }, 'it').ready).toBe('true');
  });

  it.each([
    [{ healthcheck: null }, 'the image app:1 has no health check'],
    [check('exec'), 'the image app:1 has no health check'],
    [check('none'), 'the image app:1 turns its health check off'],
  ])('%j: a usage error says so, and how to go on', (config, message) => {
    expect(() => readyOf(config)).toThrow(
      expect.objectContaining({
        code: 'usage',
        message: expect.stringContaining(message),
        remedy: expect.stringContaining('--ready'),
      }),
    );
  });
});
