import { describe, expect, it } from 'vitest';
import { missingHostPackages, parseAptStatus, RUN_PACKAGES } from './host-packages.ts';
import { HOST_PACKAGES } from './package-table.ts';

describe('parseAptStatus', () => {
  it('puts the download before the installation', () => {
    const download = parseAptStatus('dlstatus:1:100:Retrieving file 1 of 1');
    const install = parseAptStatus('pmstatus:gcc:0.0:Preparing gcc:amd64');
    expect(download?.detail).toBe('Retrieving file 1 of 1');
    expect(install?.detail).toBe('Preparing gcc:amd64');
    expect(install?.fraction).toBe(download?.fraction);
  });
  it('ends at 1', () => {
    expect(parseAptStatus('pmstatus:gcc:100.0:Installed gcc')?.fraction).toBe(1);
    expect(parseAptStatus('pmstatus:gcc:250:x')?.fraction).toBe(1);
  });
  it.each(['', 'pmerror:gcc:1:x', 'pmstatus:gcc', 'dlstatus:1:x:y', 'pmstatus:gcc:1.2.3:x'])(
    'ignores %j',
    (line) => {
      expect(parseAptStatus(line)).toBeUndefined();
    },
  );
});

describe('HOST_PACKAGES', () => {
  it('gives a reason for each and names none twice', () => {
    expect(HOST_PACKAGES.filter((one) => one.reason.length < 10)).toEqual([]);
    expect(new Set(HOST_PACKAGES.map((one) => one.name)).size).toBe(HOST_PACKAGES.length);
  });
  it('needs only a few packages to run', () => {
    expect(RUN_PACKAGES.map((one) => one.name)).toEqual([
      'qemu-system-x86',
      'bubblewrap',
      'e2fsprogs',
    ]);
  });
});

describe('missingHostPackages', () => {
  it('finds nothing missing in an empty table', async () => {
    expect(await missingHostPackages([])).toEqual([]);
  });
});
