/** Starts of jails whose owner is killed meanwhile. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { endUnfinishedStarts } from '../../src/machine/jail/leftovers.ts';
import { requiresRoot } from '../support/requires.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-jail-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

/** The command line of a process, or nothing if it has ended. */
function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    return '';
  }
}

const ORDINARY = ['--user', '--map-user=1500', '--map-group=1500'];
const BARE = ['--ro-bind', '/', '/', '--block-fd', '0', '--', 'true'];

describe('the owner is killed', () => {
  it('endUnfinishedStarts: ends what waits for a killed owner, by its id alone', async () => {
    // Waits for a byte that never comes, as after the death of its owner.
    const wait = (id: string): ChildProcess =>
      spawn('bwrap', ['--hostname', id, '--unshare-user', '--unshare-uts', ...BARE], {
        stdio: ['pipe', 'ignore', 'ignore'],
      });
    const [left, other] = [wait('abandoned'), wait('inprogress')];
    const ended = once(left, 'exit');
    await expect.poll(() => endUnfinishedStarts(new Set(['abandoned']))).toBeGreaterThan(0);
    await ended;
    expect(other.exitCode).toBeNull();
    const over = once(other, 'exit');
    other.kill('SIGKILL');
    await over;
  });

  it('endUnfinishedStarts: ends a VMM that has outlived its owner, by its parent', async () => {
    const words = ['--hostname', 'abandoned', '--unshare-user', '--unshare-uts', '--unshare-pid', '--as-pid-1'];
    const bwrap = spawn('bwrap', [...words, '--ro-bind', '/', '/', '--', 'sleep', '98.7'], { stdio: 'ignore' });
    const ended = once(bwrap, 'exit');
    const vmms = (): string[] => readdirSync('/proc').filter((pid) => commandOf(pid) === 'sleep\u000098.7\u0000');
    await expect.poll(vmms).toHaveLength(1);
    expect(endUnfinishedStarts(new Set(['abandoned']))).toBe(2);
    await ended;
    await expect.poll(vmms).toEqual([]);
  });

  requiresRoot().it.each([
    ['root', [], ''],
    // Root of the host, which is an ordinary user in this namespace.
    ['an ordinary user', ORDINARY, ''],
    ['root, of a VMM that outlives it', [], 'outlives'],
    ['an ordinary user, of a VMM that outlives it', ORDINARY, 'outlives'],
  ])('launch: killed at any moment of a start of %s, nothing is left after the next one', async (_, user, how) => {
    const runDir = join(dir, 'run');
    mkdirSync(runDir, { mode: 0o700 });
    const fixture = join(import.meta.dirname, '../fixtures/killed-in-start.ts');
    const run = (what: string): string => {
      const argv = [...user, '--', process.execPath, fixture, dir, runDir, what, how];
      return spawnSync('unshare', argv, { encoding: 'utf8' }).stdout;
    };
    const ids = Array.from({ length: 8 }, (_, round) => run(`${round * 6}`));
    expect(ids.every((id) => /^[a-z0-9]{20}$/.test(id))).toBe(true);
    run('reclaim');
    const named = (): string[] => readdirSync('/proc').filter((pid) => ids.some((id) => commandOf(pid).includes(id)));
    await expect.poll(named).toEqual([]);
    expect(readdirSync(runDir)).toEqual([]);
  });
});
