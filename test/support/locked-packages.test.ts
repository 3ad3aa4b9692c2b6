import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { installed } from './locked-packages.ts';

const MODULE = join(import.meta.dirname, 'locked-packages.ts');

let home: string;
let lock: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-locked-'));
  lock = join(home, 'lock');
  writeFileSync(lock, 'one==1');
  vi.stubEnv('NEUROVISOR_HOME', home);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(home, { recursive: true });
});

const put = (target: string): void => writeFileSync(join(target, 'made'), '');

it('installed: a different lock file gives a different directory; each is installed once', () => {
  const first = installed('set', [lock], put);
  expect(readdirSync(first)).toEqual(['made']);
  const never = (): never => expect.unreachable();
  expect(installed('set', [lock], never)).toBe(first);
  writeFileSync(lock, 'one==2');
  expect(installed('set', [lock], put)).not.toBe(first);
});

it('installed: a failed or interrupted installation leaves nothing behind, and the next one works', () => {
  const fails = (target: string): void => {
    put(target);
    throw new Error('no registry');
  };
  expect(() => installed('set', [lock], fails)).toThrow('no registry');
  const dir = installed('set', [lock], put);
  expect(readdirSync(dirname(dir)).filter((name) => !name.endsWith('.lock'))).toHaveLength(1);
  rmSync(dir, { recursive: true });
  mkdirSync(`${dir}.part`);
  writeFileSync(`${dir}.part/half`, '');
  expect(readdirSync(installed('set', [lock], put))).toEqual(['made']);
  expect(existsSync(`${dir}.part`)).toBe(false);
});

it('installed: concurrent processes install the same packages once', async () => {
  const log = join(home, 'log');
  const script = `
    import { appendFileSync } from 'node:fs';
    import { installed } from ${JSON.stringify(MODULE)};
    installed('set', [${JSON.stringify(lock)}], () => {
      appendFileSync(${JSON.stringify(log)}, 'installed\\n');
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
    });`;
  const args = ['--input-type=module', '-e', script];
  await Promise.all([1, 2, 3].map(() => promisify(execFile)(process.execPath, args)));
  expect(readFileSync(log, 'utf8')).toBe('installed\n');
});
