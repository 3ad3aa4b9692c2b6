import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { isDaemonLocked, tryLockDaemon } from './daemon-lock.ts';

it('tryLockDaemon: one owner at a time per home, even if the home does not exist yet', () => {
  const base = mkdtempSync(join(tmpdir(), 'nv-lock-'));
  try {
    const home = { dir: join(base, 'one') };
    const release = tryLockDaemon(home);
    expect(release).not.toBeNull();
    expect(tryLockDaemon(home)).toBeNull();
    const other = tryLockDaemon({ dir: join(base, 'two') });
    expect(other).not.toBeNull();
    other?.();
    expect(tryLockDaemon(home)).toBeNull();
    release?.();
    const next = tryLockDaemon(home);
    expect(next).not.toBeNull();
    next?.();
  } finally {
    rmSync(base, { recursive: true });
  }
});

it('isDaemonLocked: true while the lock is held, and does not take it', () => {
  const dir = mkdtempSync(join(tmpdir(), 'nv-lock-'));
  try {
    expect(isDaemonLocked({ dir: join(dir, 'none') })).toBe(false);
    const release = tryLockDaemon({ dir });
    expect(isDaemonLocked({ dir })).toBe(true);
    release?.();
    expect(isDaemonLocked({ dir })).toBe(false);
    const again = tryLockDaemon({ dir });
    expect(again).not.toBeNull();
    again?.();
  } finally {
    rmSync(dir, { recursive: true });
  }
});
