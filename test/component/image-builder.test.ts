/** The host's side of the VM that builds images; the VM is a function that writes disks and prints a line. */
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KIB } from '../../src/base/units.ts';
import { type FakeBuilderVm, fakeImageBuilder } from '../support/builder-vms.ts';
import { requiresRoot } from '../support/requires.ts';

describe('makeImageBuilder', () => {
  let dir: string;
  const { signal } = new AbortController();
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nv-builder-'));
    mkdirSync(join(dir, 'run'), { mode: 0o700 });
    mkdirSync(join(dir, 'out'));
    writeFileSync(join(dir, 'tools'), 'tools');
    writeFileSync(join(dir, 'blob'), 'blob');
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const open = (work: Parameters<typeof fakeImageBuilder>[1]) => fakeImageBuilder(dir, work);
  const layer = (builder: ReturnType<typeof open>, stop = signal) =>
    builder.layer(
      {
        blobPath: join(dir, 'blob'),
        blobBytes: 4,
        compression: 'gzip',
        diffId: `sha256:${'d'.repeat(64)}`,
        unpackedBytesMax: 5000,
      },
      join(dir, 'out/x'),
      stop,
    );
  const left = (): string[] => [...readdirSync(join(dir, 'out')), ...readdirSync(join(dir, 'run'))];

  it('layer: the VM gets whole sectors and the exact length; the host takes the reported length', async () => {
    let seen: FakeBuilderVm | undefined;
    await layer(
      open((vm) => {
        seen = vm;
        const [tools, input, output] = vm.disks;
        expect([tools?.access, input?.access, output?.access]).toEqual(['read', 'read', 'write']);
        expect(readFileSync(input?.path ?? '').toString()).toBe(`blob${'\0'.repeat(4092)}`);
        expect(statSync(output?.path ?? '').size).toBeGreaterThan(8192);
        writeFileSync(output?.path ?? '', Buffer.alloc(5000, 'i'), { flag: 'r+' });
        return '{"bytes": 4096}';
      }),
    );
    expect(seen?.plan).toMatchObject({ task: 'layer', bytes: 4, bytesMax: 5000, diffId: 'd'.repeat(64) });
    expect(readFileSync(join(dir, 'out/x')).toString()).toBe('i'.repeat(4096));
    expect(statSync(join(dir, 'out/x')).mode & 0o777).toBe(0o644);
    expect(left()).toEqual(['x']);
  });

  it('merge: the layers are concatenated', async () => {
    for (const name of ['a', 'b']) writeFileSync(join(dir, name), Buffer.alloc(4096, name));
    const layers = ['a', 'b'].map((name) => ({ path: join(dir, name), bytes: 4096 }));
    await open(({ plan, disks }) => {
      expect(plan['parts']).toEqual([
        [0, 4096],
        [4096, 4096],
      ]);
      expect(readFileSync(disks[1]?.path ?? '').toString()).toBe('a'.repeat(4096) + 'b'.repeat(4096));
      return '{"bytes": 8192}';
    }).merge({ layers }, join(dir, 'out/x'), signal);
    expect(statSync(join(dir, 'out/x')).size).toBe(8192);
  });

  it.each([
    ['nothing', '', 'build_failed'],
    ['more than its disk has', `{"bytes": ${2 ** 40}}`, 'build_failed'],
    ['a failure of the layer', '{"code": "digest", "detail": "x"}', 'image_invalid'],
    ['a flood', 'x'.repeat(1 << 20), 'build_failed'],
  ])('layer: a VM that reports %s leaves nothing behind', async (_, line, code) => {
    await expect(layer(open(() => line))).rejects.toMatchObject({ code });
    expect(left()).toEqual([]);
  });

  it('layer: two processes that build the same image do not disturb each other', async () => {
    const builder = open(() => '{"bytes": 4096}');
    await Promise.all([layer(builder), layer(builder), layer(builder)]);
    expect(left()).toEqual(['x']);
  });

  it('layer: a full disk of the host, and a cancel, end the VM and leave nothing behind', async () => {
    const never = new Promise<string>(() => undefined);
    const full = open(({ trouble, disks }) => {
      trouble({ kind: 'full', path: disks[2]?.path ?? '', freeBytes: 7 });
      return never;
    });
    await expect(layer(full)).rejects.toMatchObject({ code: 'disk_full' });
    const aborter = new AbortController();
    const canceled = open(() => {
      aborter.abort();
      throw new Error('the VM is gone');
    });
    await expect(layer(canceled, aborter.signal)).rejects.toMatchObject({ code: 'cancelled' });
    expect(left()).toEqual([]);
  });
});

requiresRoot().it(
  'image builder: a cache on another file system works; a full one, or a full run directory, is disk_full',
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nv-builder-'));
    try {
      const fixture = join(import.meta.dirname, '../fixtures/image-builder-full.ts');
      const own = ['--mount', '--propagation', 'private'];
      const run = promisify(execFile)('unshare', [...own, process.execPath, fixture, dir]);
      const { stdout } = await run;
      const full = {
        code: 'disk_full',
        remedy: expect.stringContaining('image prune'),
        message: expect.stringContaining('no space left on device'),
        left: [],
      };
      expect(JSON.parse(stdout)).toEqual({
        another: { code: 'done', left: ['x'], bytes: 256 * KIB, onDisk: 256 * KIB },
        fullCache: full,
        fullRun: full,
        again: { code: 'done', left: ['x'], bytes: 256 * KIB, onDisk: 256 * KIB },
      });
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  },
);
