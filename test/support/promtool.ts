/** Prometheus' own checker of rules, from Debian's package, pinned by digest and kept in the home's cache. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { orReason } from './locked-packages.ts';
import { type Requirement, requires } from './requires.ts';
import { testCacheDir } from './wheel.ts';

const VERSION = '2.42.0+ds-5+deb12u1';
const SHA256 = '14d9c8acdc5d1321dc2092400111c586f09ac350f23f2383d1679b2bf256e583';
const FETCH_MS_MAX = 120_000;

interface Promtool {
  readonly path: string;
}

export const requiresPromtool = (): Requirement<Promtool> => requires('debian-archive', orReason(promtool));

/** @throws if Debian's archive is out of reach or has another version, or the digest differs */
function promtool(): Promtool {
  const dir = testCacheDir('test-promtool');
  const path = join(dir, VERSION);
  if (existsSync(path)) return { path };
  const work = mkdtempSync(join(dir, 'fetch-'));
  try {
    const options = { cwd: work, stdio: 'pipe', timeout: FETCH_MS_MAX } as const;
    execFileSync('apt-get', ['download', `prometheus=${VERSION}`], options);
    const deb = readdirSync(work).find((name) => name.endsWith('.deb')) ?? '';
    execFileSync('dpkg-deb', ['-x', deb, work], options);
    const found = join(work, 'usr/bin/promtool');
    const digest = createHash('sha256').update(readFileSync(found)).digest('hex');
    if (digest !== SHA256) throw new Error(`promtool ${VERSION} has another digest: ${digest}`);
    renameSync(found, path);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return { path };
}
