import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { missingHostPackages, parseAptStatus, parseLockHolder, RUN_PACKAGES } from './host-packages.ts';
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
  it.each(['', 'pmerror:gcc:1:x', 'pmstatus:gcc', 'dlstatus:1:x:y', 'pmstatus:gcc:1.2.3:x'])('ignores %j', (line) => {
    expect(parseAptStatus(line)).toBeUndefined();
  });
});

describe('parseLockHolder', () => {
  it('names the process that apt waits for', () => {
    const line =
      'Waiting for cache lock: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 812 (unattended-upgr)...';
    expect(parseLockHolder(line)).toBe('process 812 (unattended-upgr)');
    expect(parseLockHolder('Reading package lists...')).toBeUndefined();
  });
});

describe('HOST_PACKAGES', () => {
  it('gives a reason for each and names none twice', () => {
    expect(HOST_PACKAGES.filter((one) => one.reason.length < 10)).toEqual([]);
    expect(new Set(HOST_PACKAGES.map((one) => one.name)).size).toBe(HOST_PACKAGES.length);
  });
  it('needs only a few packages to run', () => {
    expect(RUN_PACKAGES.map((one) => one.name)).toEqual(['qemu-system-x86', 'bubblewrap', 'e2fsprogs']);
  });
});

describe('missingHostPackages', () => {
  it('finds nothing missing in an empty table', async () => {
    expect(await missingHostPackages([])).toEqual([]);
  });
});

describe('missingHostPackages: names', () => {
  it('recognizes a package with many versions as known to apt', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nv-apt-'));
    const versions = Array.from({ length: 30 }, (_, i) => `     6.12.${i} 500`).join('\n');
    const policy = `many:\n  Installed: (none)\n  Candidate: 6.12.30\n  Version table:\n${versions}`;
    const script = `#!/bin/sh\n[ "$2" = many ] || exit 0\ncat <<'END'\n${policy}\nEND\n`;
    writeFileSync(join(dir, 'apt-cache'), script, { mode: 0o755 });
    const path = process.env['PATH'];
    process.env['PATH'] = `${dir}:${path}`;
    try {
      const check = { kind: 'file', path: '/nowhere' } as const;
      const wanted = { name: 'many', alternatives: ['other'], reason: 'for a test', check };
      const other = { name: 'other', alternatives: ['many'], reason: 'for a test', check };
      const found = await missingHostPackages([wanted, other]);
      expect(found.map(({ name }) => name)).toEqual(['many', 'many']);
    } finally {
      process.env['PATH'] = path;
      rmSync(dir, { recursive: true });
    }
  });
});
