/** What a jailed VMM may have of the host's disks: its control group with the real kernel. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { findCgroups } from '../../src/jail/cgroup-paths.ts';
import { deviceName, ioLimits } from '../../src/jail/disk-io.ts';
import { openCgroups } from '../../src/jail/open.ts';
import { confine } from '../../src/runtime/jail.ts';

const QEMU = 'qemu-system-x86_64';
const MACHINE = ['-machine', 'none', '-nodefaults', '-no-user-config', '-display', 'none', '-S'];
const read = (path: string): string => readFileSync(path, 'latin1');
const hasDisk = ioLimits([tmpdir()], {}).disks.length > 0;
const hasGroups = (await openCgroups(silentLog))?.controllers.includes('blkio') === true;

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-jail-io-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

/** The numbers of a process' group, of whatever version and unit. */
function settings(pid: number): string[] {
  const { v1, v2 } = findCgroups(read('/proc/self/mountinfo'), read(`/proc/${pid}/cgroup`));
  const group = v1.get('blkio') ?? v2?.dir ?? '';
  return readdirSync(group)
    .filter((name) => /^(io\.max|blkio\.throttle\..*_device)$/.test(name))
    .flatMap((name) => read(join(group, name)).match(/(?<=[ =])\d+/g) ?? []);
}

describe('launch', () => {
  it.skipIf(!hasDisk || !hasGroups)(
    'launch: its group holds it to what its disks are limited to, with room for the host; limitDisks: changes that',
    async () => {
      const confinement = { jail: 'enforce', jailUids: null } as const;
      const home = { cacheDir: join(dir, 'cache') };
      const jail = await confine({
        ...{ config: confinement, home, log: silentLog, binary: QEMU, acceptsGaps: true },
      });
      const own = mkdtempSync(join(dir, 'vm-'));
      const disk = join(own, 'disk');
      writeFileSync(disk, '');
      const launch = async (diskLimits: object) => {
        const launched = await jail.launch({
          ...{ id: 'jailedio', argv: [QEMU, ...MACHINE], stdio: ['ignore', 'ignore', 'ignore'] },
          ...{ dir: own, files: [{ path: disk, access: 'write' }], memoryMib: 64, cpus: 1 },
          diskLimits,
        });
        const over = new Promise((resolve) => launched.child.once('close', resolve));
        return { launched, over, pid: await launched.pid };
      };
      for (const [given, expected] of [
        [{ bytesPerSecond: 1_000_000 }, ['2000000', '2000000']],
        [{}, []],
      ] as const) {
        const { launched, over, pid } = await launch(given);
        expect(settings(pid)).toEqual(expected);
        launched.limitDisks?.({ opsPerSecond: 100 });
        expect(settings(pid)).toEqual(['800', '800']);
        launched.limitDisks?.({});
        expect(settings(pid)).toEqual([]);
        launched.kill();
        await over;
        await launched.release();
      }
      await jail.close();
    },
  );
});

describe('ioLimits', () => {
  it('ioLimits: files on one disk are one; those of no disk, and what is not limited, are left out', () => {
    expect(ioLimits(['/proc/self/stat'], { opsPerSecond: 10 })).toEqual({
      disks: [],
      bytesPerSecond: null,
      opsPerSecond: 80,
    });
    const both = ioLimits([tmpdir(), dir, dir], {}).disks;
    expect(new Set(both).size).toBe(both.length);
  });

  it('deviceName: all bits of both numbers (makedev(3))', () => {
    expect(deviceName(0xfe00n)).toBe('254:0');
    expect(deviceName(0x1234_5678_9abc_def0n)).toBe(`${0x1234_5000 | 0xcde}:${0x6789_ab00 | 0xf0}`);
  });
});
