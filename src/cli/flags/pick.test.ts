import { describe, expect, it } from 'vitest';
import type { SandboxFilter, SandboxInfo, SnapshotInfo } from '../../sandbox/contract/control.ts';
import { sandboxId, snapshotId } from './pick.ts';

const ONE = 'aaaa0000000000000000';
const THREE = 'aaac0000000000000000';
const TWO = 'aabb0000000000000000';
const usage = (text: string) => expect.objectContaining({ code: 'usage', message: expect.stringContaining(text) });

const control = {
  list: async () => [{ id: ONE }, { id: TWO }] as SandboxInfo[],
  snapshots: async () =>
    [
      { id: ONE, name: 'aab' },
      { id: TWO, name: null },
    ] as SnapshotInfo[],
};

describe('sandboxId', () => {
  it('resolves a unique prefix to the full ID', async () => {
    expect(await sandboxId(control, 'aaa')).toBe(ONE);
    expect(await sandboxId(control, TWO.slice(0, 19))).toBe(TWO);
  });
  it('prefers a name over an ID prefix', async () => {
    const named = { list: async () => [{ id: ONE }, { id: TWO, name: 'aaa' }] as SandboxInfo[] };
    expect(await sandboxId(named, 'aaa')).toBe(TWO);
    expect(await sandboxId(named, 'aaaa')).toBe(ONE);
  });
  it('returns a full ID without a lookup', async () => {
    expect(await sandboxId(control, 'z'.repeat(20))).toBe('z'.repeat(20));
  });
  it('resolves an ended sandbox only if no other matches', async () => {
    const ended = [{ id: THREE }] as SandboxInfo[];
    const asked = {
      list: async (filter?: SandboxFilter) =>
        filter?.status?.includes('ended') === true ? ended : await control.list(),
    };
    expect(await sandboxId(asked, THREE.slice(0, 5))).toBe(THREE);
    expect(await sandboxId(asked, 'aaa')).toBe(ONE);
    await expect(sandboxId(asked, 'b')).rejects.toThrow(usage('unknown sandbox "b"'));
    await expect(sandboxId(asked, '')).rejects.toThrow(usage('unknown sandbox'));
  });
  it('rejects an ambiguous, unknown or empty prefix', async () => {
    await expect(sandboxId(control, 'aa')).rejects.toThrow(usage('ambiguous sandbox ID "aa": 2 match'));
    await expect(sandboxId(control, 'b')).rejects.toThrow(usage('unknown sandbox "b"'));
    await expect(sandboxId(control, '')).rejects.toThrow(usage('unknown sandbox'));
    await expect(sandboxId(control, 'AAA')).rejects.toThrow(usage('unknown sandbox'));
  });
});

describe('snapshotId', () => {
  it('prefers a name over an ID prefix', async () => {
    expect(await snapshotId(control, 'aab')).toBe(ONE);
    expect(await snapshotId(control, 'aabb')).toBe(TWO);
    await expect(snapshotId(control, 'none')).rejects.toThrow(usage('unknown snapshot'));
  });
});
