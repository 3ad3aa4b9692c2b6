import { tmpdir } from 'node:os';
import { describe, expect, it } from 'vitest';
import { HomeDisk } from './home-disk.ts';

const states = ({ metric }: HomeDisk): unknown => metric.samples().map(({ labels, value }) => [labels['state'], value]);

describe('neurovisor_home_disk_bytes', () => {
  it('free follows what this user can still write; a failed reading keeps the last values', async () => {
    let bavail = 100;
    const disk = new HomeDisk('/home', async (path) => {
      expect(path).toBe('/home');
      if (bavail < 0) throw new Error('EIO');
      return { bavail, blocks: 1000, bsize: 4096 };
    });
    expect(states(disk)).toEqual([]);
    await disk.ask();
    expect(states(disk)).toEqual([
      ['free', 409_600],
      ['size', 4_096_000],
    ]);
    bavail = 25;
    await disk.ask();
    expect(states(disk)).toEqual([
      ['free', 102_400],
      ['size', 4_096_000],
    ]);
    bavail = -1;
    await expect(disk.ask()).rejects.toThrow('EIO');
    expect(states(disk)).toEqual([
      ['free', 102_400],
      ['size', 4_096_000],
    ]);
  });

  it('reads a real file system', async () => {
    const disk = new HomeDisk(tmpdir());
    await disk.ask();
    const [free, size] = disk.metric.samples();
    expect(free?.value).toBeGreaterThan(0);
    expect(size?.value).toBeGreaterThanOrEqual(free?.value ?? 0);
  });
});
