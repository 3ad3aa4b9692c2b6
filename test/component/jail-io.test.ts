/** I/O limits of a jailed VMM: its control group with the real kernel. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { confine } from '../../src/host/runtime/jail.ts';
import { deviceName, ioLimits } from '../../src/machine/jail/disk-io.ts';
import { ioSettings, requiresDiskLimits } from '../support/cgroup-io.ts';

const QEMU = 'qemu-system-x86_64';
const MACHINE = ['-machine', 'none', '-nodefaults', '-no-user-config', '-display', 'none', '-S'];
const diskLimits = await requiresDiskLimits();

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-jail-io-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

describe('launch', () => {
  diskLimits.it(
    'launch: the control group applies the disk limits, with headroom for the host; limitDisks: changes them',
    async () => {
      const confinement = { jail: 'enforce', jailUids: null } as const;
      const home = { cacheDir: join(dir, 'cache') };
      const jail = await confine({ config: confinement, home, log: silentLog, binary: QEMU, acceptsGaps: true });
      const own = mkdtempSync(join(dir, 'vm-'));
      const disk = join(own, 'disk');
      writeFileSync(disk, '');
      const launch = async (diskLimits: object) => {
        const launched = await jail.launch({
          id: 'jailedio',
          argv: [QEMU, ...MACHINE],
          stdio: ['ignore', 'ignore', 'ignore'],
          dir: own,
          files: [{ path: disk, access: 'write' }],
          memoryMib: 64,
          cpus: 1,
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
        expect(ioSettings(pid)).toEqual(expected);
        launched.limitDisks?.({ opsPerSecond: 100 });
        expect(ioSettings(pid)).toEqual(['800', '800']);
        launched.limitDisks?.({});
        expect(ioSettings(pid)).toEqual([]);
        launched.kill();
        await over;
        await launched.release();
      }
      await jail.close();
    },
  );
});

describe('ioLimits', () => {
  it('ioLimits: has one entry per disk, and none for files without a disk or a limit', () => {
    expect(ioLimits(['/proc/self/stat', join(dir, 'gone')], { opsPerSecond: 10 })).toEqual({
      disks: [],
      bytesPerSecond: null,
      opsPerSecond: 80,
    });
    const both = ioLimits([tmpdir(), dir, dir], {}).disks;
    expect(new Set(both).size).toBe(both.length);
  });

  it('deviceName: uses all bits of both numbers (makedev(3))', () => {
    expect(deviceName(0xfe00n)).toBe('254:0');
    expect(deviceName(0x1234_5678_9abc_def0n)).toBe(`${0x1234_5000 | 0xcde}:${0x6789_ab00 | 0xf0}`);
  });
});
