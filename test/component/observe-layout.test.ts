/** Structs of bpf/*.h have the offsets that we read; equal sources give an equal object. */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FakeClock } from '../../src/base/clock.ts';
import { objectOf, PROGRAMS } from '../../src/machine/observe/compile.ts';
import { EVENT, EVENT_BYTES, LOSS, LOSS_BYTES, SANDBOX, SANDBOX_BYTES } from '../../src/machine/observe/events.ts';
import { SETTINGS, SETTINGS_BYTES, TAP, TAP_BYTES, TIMES, TIMES_BYTES } from '../../src/machine/observe/latency.ts';
import { CALLS, CALLS_BYTES } from '../../src/machine/observe/syscalls.ts';
import { openTracepoints } from '../../src/machine/observe/tracepoints.ts';
import { BpfObject } from '../../src/sys/bpf/object.ts';

const BPF = join(import.meta.dirname, '../../bpf');
let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-observe-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** The sources without the shipped objects, so that clang compiles. */
function copyOfSources(name: string): string {
  const to = join(dir, name);
  cpSync(BPF, to, { recursive: true, filter: (path) => !path.startsWith(join(BPF, 'prebuilt')) });
  return to;
}

describe('layout', () => {
  it.each([
    ['latency', 'nv_tap', TAP, TAP_BYTES],
    ['latency', 'nv_times', TIMES, TIMES_BYTES],
    ['latency', 'nv_settings', SETTINGS, SETTINGS_BYTES],
    ['processes', 'nv_event', EVENT, EVENT_BYTES],
    ['processes', 'nv_sandbox', SANDBOX, SANDBOX_BYTES],
    ['processes', 'nv_loss', LOSS, LOSS_BYTES],
    ['syscalls', 'nv_calls', CALLS, CALLS_BYTES],
  ] as const)('%s.bpf.c: struct %s has the expected layout', async (program, struct, offsets, bytes) => {
    const object = new BpfObject(await objectOf(program, { dir }));
    try {
      const layout = object.structFields(struct);
      expect(layout.bytes).toBe(bytes);
      expect(layout.fields.map(({ name, offset }) => [name, offset])).toEqual(Object.entries(offsets));
      // No padding, whose bytes would stay unset.
      const ends = layout.fields.map(({ offset, bytes: size }) => offset + size);
      expect([0, ...ends]).toEqual([...layout.fields.map(({ offset }) => offset), bytes]);
    } finally {
      object.close();
    }
  });
});

describe('objectOf', () => {
  it('makes the same bytes for any location of the sources, and only once', async () => {
    const here = copyOfSources('here');
    const elsewhere = copyOfSources(join('a folder', 'bpf'));
    for (const program of PROGRAMS) {
      const first = await objectOf(program, { dir: join(dir, 'one'), sourceDir: here });
      const second = await objectOf(program, { dir: join(dir, 'two'), sourceDir: elsewhere });
      expect(readFileSync(first)).toEqual(readFileSync(second));
      expect(readFileSync(first).includes(dir)).toBe(false);
      writeFileSync(first, 'kept');
      expect(await objectOf(program, { dir: join(dir, 'one'), sourceDir: here })).toBe(first);
      expect(readFileSync(first, 'latin1')).toBe('kept');
    }
  });

  it('changed sources make a new object; a compile error leaves no file', async () => {
    const sourceDir = copyOfSources('other');
    const kept = join(dir, 'kept');
    const before = await objectOf('latency', { dir: kept, sourceDir });
    writeFileSync(join(sourceDir, 'log2.h'), '#error not today');
    await expect(objectOf('latency', { dir: kept, sourceDir })).rejects.toMatchObject({
      code: 'compile_failed',
      cause: expect.objectContaining({ message: expect.stringContaining('not today') }),
    });
    expect(readdirSync(kept).map((name) => join(kept, name))).toEqual([before]);
  });
});

describe('objects of another kernel', () => {
  it('unsupported: a changed struct fails with the message of the kernel', async () => {
    const btfPath = await objectOf('latency', { dir });
    const options = { dir, clock: new FakeClock(), onEvent: () => undefined };
    await expect(openTracepoints({ ...options, btfPath })).rejects.toMatchObject({
      code: 'unsupported',
      cause: expect.objectContaining({ message: expect.stringContaining('CO-RE') }),
    });
    const nowhere = join(dir, 'no-btf');
    await expect(openTracepoints({ ...options, btfPath: nowhere })).rejects.toMatchObject({
      code: 'no_btf',
      remedy: expect.stringContaining('CONFIG_DEBUG_INFO_BTF'),
    });
  });

  it('Linux 6.1: omits a victim’s memory, which that kernel counts differently', async () => {
    const source = join(dir, 'older.c');
    const types = [
      'struct mm_rss_stat { long count[4]; };',
      'struct mm_struct { long before; struct mm_rss_stat rss_stat; };',
      'typedef struct { int counter; } atomic_t;',
      'struct signal_struct { atomic_t live; short oom_score_adj; };',
      'typedef struct { unsigned val; } kuid_t;',
      'struct cred { kuid_t uid; };',
      'struct task_struct { int pid, tgid, exit_code; char comm[16]; struct mm_struct *mm;',
      '  struct signal_struct *signal; const struct cred *cred; };',
      // A type is complete only if something has it.
      'struct task_struct a; struct mm_struct b; struct signal_struct c; struct cred d;',
    ];
    writeFileSync(source, types.join('\n'));
    const btfPath = join(dir, 'older.o');
    execFileSync('clang', ['-target', 'bpf', '-g', '-c', source, '-o', btfPath]);
    const options = { dir, clock: new FakeClock(), onEvent: () => undefined, btfPath };
    using tracepoints = await openTracepoints(options);
    expect(tracepoints.missing).toEqual([]);
  });
});
