/** Whether clones share RAM, found by trying: if the host refuses, they copy. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { RamSharing } from '../../src/host/runtime/ram/sharing.ts';
import { requiresRoot } from '../support/requires.ts';

let root = '';
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'nv-sharing-'));
  mkdirSync(join(root, 'run'), { mode: 0o700 });
});
afterEach(() => rmSync(root, { recursive: true }));

/** @param without capabilities to drop from this process */
function ask(
  user: number,
  without: string,
  mode = 'share',
  failures = 0,
): { readonly found: RamSharing[]; readonly tried: number } {
  const fixture = join(import.meta.dirname, '../fixtures/ram-sharing.ts');
  const node = [process.execPath, '--disable-warning=ExperimentalWarning', fixture];
  const argv = ['--bounding-set', without, '--', ...node, root, `${user}`, mode, `${failures}`];
  return JSON.parse(execFileSync('setpriv', argv, { encoding: 'utf8', timeout: 60_000 })) as never;
}

requiresRoot().describe('sharing RAM with QEMU', () => {
  vi.setConfig({ testTimeout: 120_000 });
  it('a process that may debug its VMMs shares, and tries it once', () => {
    const { found, tried } = ask(65534, '+all');
    expect(found).toEqual([found[0], found[0]]);
    expect(found[0]).toEqual({ isShared: true, text: expect.stringContaining('of a tenant share') });
    expect(tried).toBe(1);
    expect(readdirSync(join(root, 'run'))).toEqual([]);
  });

  it('without CAP_SYS_PTRACE, and for VMMs of another user: copies, with the reason', () => {
    const { found, tried } = ask(65534, '-sys_ptrace');
    expect(found).toEqual([found[0], found[0]]);
    expect(found[0]).toEqual({
      isShared: false,
      text: expect.stringContaining('a copy'),
      obstacle: expect.stringContaining('EACCES'),
    });
    expect(tried).toBe(1);
    // The other process has different rights: the verdict does not apply to it.
    expect(ask(65534, '+all')).toMatchObject({ found: [{ isShared: true }, {}], tried: 1 });
  });

  it('a failed try gives no verdict: the next start tries again', () => {
    const { found, tried } = ask(0, '+all', 'share', 1);
    expect(found).toEqual([
      {
        isShared: false,
        text: expect.stringContaining('could not be tried'),
        obstacle: expect.stringContaining('no room'),
      },
      { isShared: true, text: expect.any(String) },
    ]);
    expect(tried).toBe(2);
    expect(readdirSync(join(root, 'run'))).toEqual([]);
  });

  it('a damaged cache is ignored; `copy` tries nothing', () => {
    mkdirSync(join(root, 'cache'));
    writeFileSync(join(root, 'cache/memory-access.json'), '{"facts":');
    expect(ask(0, '+all')).toMatchObject({ found: [{ isShared: true }, {}], tried: 1 });
    expect(ask(0, '+all', 'copy')).toMatchObject({ found: [{ isShared: false }, {}], tried: 0 });
  });
});
