import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { silentLog } from '../../../base/log.ts';
import { KeyCommand } from './key-command.ts';

const SECRET = 'sk-very-secret';
let dir: string;
let clock: FakeClock;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-key-command-'));
  clock = new FakeClock();
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const command = (...argv: string[]): KeyCommand =>
  new KeyCommand({ argv, upstream: 'hosted', dir, clock, log: silentLog });
const shell = (script: string): KeyCommand => command('/bin/sh', '-c', script);

/** Prints the content of `key`, and records each call in `calls`. */
const TELLS = 'echo x >> calls; cat key';
const calls = (): number => readFileSync(join(dir, 'calls'), 'latin1').length / 2;

describe('KeyCommand', () => {
  it('concurrent requests run the program once, and again after five minutes', async () => {
    writeFileSync(join(dir, 'key'), `${SECRET}\n`);
    const keys = shell(TELLS);
    expect(await Promise.all([keys.key(), keys.key(), keys.key()])).toEqual([SECRET, SECRET, SECRET]);
    clock.advance(299_000);
    writeFileSync(join(dir, 'key'), 'sk-next');
    expect(await keys.key()).toBe(SECRET);
    expect(calls()).toBe(1);
    clock.advance(1_000);
    // No request waits for the program meanwhile.
    expect(await keys.key()).toBe(SECRET);
    await expect.poll(() => keys.key()).toBe('sk-next');
    expect(calls()).toBe(2);
    writeFileSync(join(dir, 'key'), 'sk-last');
    clock.advance(600_000);
    expect(await keys.key()).toBe('sk-last');
  });

  it('keeps a key if the program fails to print it again, and retries later', async () => {
    writeFileSync(join(dir, 'key'), SECRET);
    const keys = shell(TELLS);
    await keys.key();
    rmSync(join(dir, 'key'));
    clock.advance(600_000);
    expect(await keys.key()).toBe(SECRET);
    expect(await keys.key()).toBe(SECRET);
    expect(calls()).toBe(2);
  });

  it('a key that the server rejects is requested again, at most once a minute', async () => {
    writeFileSync(join(dir, 'key'), SECRET);
    const keys = shell(TELLS);
    expect(await keys.key()).toBe(SECRET);
    for (let n = 0; n < 5; n += 1) {
      keys.deny(SECRET);
      expect(await keys.key()).toBe(SECRET);
    }
    expect(calls()).toBe(2);
    clock.advance(60_000);
    writeFileSync(join(dir, 'key'), 'sk-next');
    keys.deny(SECRET);
    expect(await Promise.all([keys.key(), keys.key()])).toEqual(['sk-next', 'sk-next']);
    clock.advance(60_000);
    // The key of an earlier request.
    keys.deny(SECRET);
    expect(await keys.key()).toBe('sk-next');
    expect(calls()).toBe(3);
  });

  it('a program that fails is run again, but not for each request', async () => {
    const keys = shell(TELLS);
    for (let n = 0; n < 3; n += 1) {
      await expect(keys.key()).rejects.toMatchObject({ code: 'upstream_unreachable' });
    }
    expect(calls()).toBe(1);
    writeFileSync(join(dir, 'key'), SECRET);
    clock.advance(5_000);
    expect(await keys.key()).toBe(SECRET);
  });

  it.each([
    ['a status', ['/bin/sh', '-c', `echo ${SECRET}; exit 3`], /sh failed with status 3/],
    ['nothing', ['/bin/true'], /true did not print one key/],
    ['two lines', ['/bin/printf', `${SECRET}\\n${SECRET}`], /printf did not print one key/],
    ['no program', ['./missing', SECRET], /missing does not exist/],
    ['a flood', ['/bin/sh', '-c', `while :; do echo ${SECRET}; done`], /sh printed too much/],
  ])('%s: an error that does not contain the key', async (_, argv, message) => {
    const error: unknown = await command(...argv)
      .key()
      .catch((thrown: unknown) => thrown);
    expect(describeError(error)).toMatch(message);
    expect(describeError(error)).not.toContain(SECRET);
  });

  it('arguments are not interpreted by a shell', async () => {
    expect(await command('/bin/echo', '$HOME;id').key()).toBe('$HOME;id');
  });
});
