/** The host's side of the VM that builds images; the VM is a function that writes disks and prints a line. */
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ExecSpec, Process } from '../../src/guest/guest.ts';
import { type BuilderVms, makeImageBuilder } from '../../src/runtime/image-builder.ts';
import type { SandboxSpec } from '../../src/sandbox/spec.ts';
import type { DiskTrouble, VmDisk } from '../../src/vmm/driver.ts';

interface FakeVm {
  readonly plan: Record<string, unknown>;
  readonly disks: readonly VmDisk[];
  readonly trouble: (trouble: DiskTrouble) => void;
}

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

  /** @param work what the VM does; returns the line that it prints, or never ends */
  const open = (work: (vm: FakeVm) => string | Promise<string>) => {
    let count = 0;
    const start: BuilderVms['start'] = async (_options, _signal, { makeWorkspace }) => {
      count += 1;
      const id = `${'a'.repeat(19)}${count}`;
      const place = await makeWorkspace?.({ id } as SandboxSpec);
      const listeners: ((trouble: DiskTrouble) => void)[] = [];
      const exec = async ({ argv }: ExecSpec): Promise<Process> => {
        const isBuild = argv[0] === 'python3';
        const plan = isBuild ? JSON.parse(argv.at(-1) ?? '') : {};
        const vm = {
          plan,
          disks: place?.disks ?? [],
          trouble: (trouble: DiskTrouble) => {
            for (const listener of listeners) listener(trouble);
          },
        };
        const line = isBuild ? await work(vm) : '';
        return {
          stdout: Readable.from(line === '' ? [] : [Buffer.from(line)]),
          stderr: new PassThrough().end(),
          exit: new Promise((resolve) => setImmediate(resolve, { exitCode: 0 })),
        } as unknown as Process;
      };
      return {
        guest: () => ({ exec }),
        vm: { onDiskTrouble: (listener: (typeof listeners)[0]) => void listeners.push(listener) },
        stop: async () => void (await place?.remove()),
      } as unknown as Awaited<ReturnType<BuilderVms['start']>>;
    };
    return makeImageBuilder({
      start,
      runDir: join(dir, 'run'),
      toolsPath: join(dir, 'tools'),
      hostCpus: 1,
    });
  };
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

  it('layer: the VM gets whole sectors and the exact length; the host takes as much as it is told', async () => {
    let seen: FakeVm | undefined;
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
    expect(seen?.plan).toMatchObject({
      task: 'layer',
      bytes: 4,
      bytesMax: 5000,
      diffId: 'd'.repeat(64),
    });
    expect(readFileSync(join(dir, 'out/x')).toString()).toBe('i'.repeat(4096));
    expect(statSync(join(dir, 'out/x')).mode & 0o777).toBe(0o644);
    expect(left()).toEqual(['x']);
  });

  it('merge: the layers lie one behind the other', async () => {
    for (const name of ['a', 'b']) writeFileSync(join(dir, name), Buffer.alloc(4096, name));
    const layers = ['a', 'b'].map((name) => ({ path: join(dir, name), bytes: 4096 }));
    await open(({ plan, disks }) => {
      expect(plan['parts']).toEqual([
        [0, 4096],
        [4096, 4096],
      ]);
      expect(readFileSync(disks[1]?.path ?? '').toString()).toBe(
        'a'.repeat(4096) + 'b'.repeat(4096),
      );
      return '{"bytes": 8192}';
    }).merge({ layers }, join(dir, 'out/x'), signal);
    expect(statSync(join(dir, 'out/x')).size).toBe(8192);
  });

  it.each([
    ['nothing', '', 'build_failed'],
    ['more than its disk has', `{"bytes": ${2 ** 40}}`, 'build_failed'],
    ['a failure of the layer', '{"code": "digest", "detail": "x"}', 'image_invalid'],
    ['a flood', 'x'.repeat(1 << 20), 'build_failed'],
  ])('layer: a VM that says %s leaves nothing', async (_, line, code) => {
    await expect(layer(open(() => line))).rejects.toMatchObject({ code });
    expect(left()).toEqual([]);
  });

  it('layer: two processes that build the same do not disturb each other', async () => {
    const builder = open(() => '{"bytes": 4096}');
    await Promise.all([layer(builder), layer(builder), layer(builder)]);
    expect(left()).toEqual(['x']);
  });

  it('layer: a full disk of the host, and a cancel, end the VM and leave nothing', async () => {
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
