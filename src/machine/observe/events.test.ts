import { describe, expect, it } from 'vitest';
import { EVENT, EVENT_BYTES, LOSS_BYTES, readEvent, readLoss } from './events.ts';

function event(fields: Partial<Record<keyof typeof EVENT, number>>, comm = 'qemu'): Uint8Array {
  const view = new DataView(new ArrayBuffer(EVENT_BYTES));
  for (const [name, value] of Object.entries(fields)) view.setInt32(EVENT[name as keyof typeof EVENT], value, true);
  const bytes = new Uint8Array(view.buffer);
  bytes.set(Buffer.from(comm, 'latin1').subarray(0, 16), EVENT.comm);
  return bytes;
}

describe('readEvent', () => {
  it('reads an OOM victim, with its memory in bytes', () => {
    const fields = { at_ns: 5, sandbox: 7, kind: 1, tgid: 10, tid: 11, uid: 1000 };
    const more = { oom_score_adj: -300, anon_pages: 2, file_pages: 3, shmem_pages: 4 };
    expect(readEvent(event({ ...fields, ...more }))).toEqual({
      kind: 'oom-victim',
      atNs: 5n,
      sandbox: 7n,
      pid: 10,
      tid: 11,
      comm: 'qemu',
      uid: 1000,
      oomScoreAdj: -300,
      anonBytes: 8192,
      fileBytes: 12_288,
      shmemBytes: 16_384,
    });
  });

  it('reads a reclaim with its scope, time and yield', () => {
    expect(readEvent(event({ kind: 2, scope: 1 }))).toMatchObject({ scope: 'cgroup' });
    const end = { kind: 3, scope: 0, duration_ns: 900, freed_pages: 32 };
    expect(readEvent(event(end))).toMatchObject({
      kind: 'reclaim-end',
      scope: 'host',
      durationNs: 900,
      freedBytes: 131_072,
    });
  });

  it.each([
    [0, 0, null],
    [3 << 8, 3, null],
    [9, null, 9],
    // With a core dump.
    [0x80 | 11, null, 11],
  ])('parses exit status %d', (status, exitCode, signal) => {
    expect(readEvent(event({ kind: 5, status }))).toMatchObject({ kind: 'exit', exitCode, signal });
  });

  it('makes the name of a process printable, also without a terminator', () => {
    const name = (comm: string) => readEvent(event({ kind: 4 }, comm))?.comm;
    expect(name('a\u001b[31m\n"')).toBe('a?[31m?"');
    expect(name('0123456789abcdefgh')).toBe('0123456789abcdef');
  });

  it('returns undefined for an unknown kind and a truncated event', () => {
    expect(readEvent(event({ kind: 99 }))).toBeUndefined();
    expect(readEvent(event({ kind: 4 }).subarray(0, EVENT_BYTES - 1))).toBeUndefined();
  });
});

describe('readLoss', () => {
  it('adds up the counts of all processors', () => {
    const view = new DataView(new ArrayBuffer(2 * LOSS_BYTES));
    for (const [at, value] of [1n, 10n, 2n, 20n].entries()) view.setBigUint64(8 * at, value, true);
    expect(readLoss(view)).toEqual({ events: 3, processes: 30 });
  });
});
