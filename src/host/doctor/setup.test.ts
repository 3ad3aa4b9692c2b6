import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { MANIFEST } from '../../artifacts/image/prepare.ts';
import { absentArtifacts, guestPackages } from '../../artifacts/image/prepared.ts';
import type { LockDifference } from '../../artifacts/image/rootfs/debian-lock.ts';
import { rootfsRecipe } from '../../artifacts/image/rootfs/rootfs.ts';
import { silentLog } from '../../base/log.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import type { Finding } from './check.ts';
import { checkSetup, judgeImage } from './setup.ts';

let home: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-doctor-'));
});
afterEach(() => rm(home, { recursive: true }));

it('checkSetup: artifacts of another version do not count as set up', async () => {
  for (const kind of ['kernel', 'rootfs', 'model'])
    await mkdir(join(home, 'cache', kind, 'other'), { recursive: true });
  const finding = await checkSetup({ config: { home }, log: silentLog });
  expect(finding.verdict).toBe('limited');
  expect(finding.detail).toMatch(/kernel.*, golden image, model$/);
  expect(finding.remedy).toContain('setup');
});

it('checkSetup: a new home is reported as new', async () => {
  const finding = await checkSetup({ config: { home }, log: silentLog });
  expect(finding).toMatchObject({ verdict: 'limited', detail: 'not set up yet' });
});

it('judgeImage: names Debian packages that differ from the lock', async () => {
  const cacheDir = join(home, 'cache');
  const context = {
    cacheDir,
    sourceDir: PACKAGE_DIR,
    progress: () => undefined,
    signal: new AbortController().signal,
    log: silentLog,
  };
  const { kind, key } = await rootfsRecipe(context);
  const judge = async (lockDifferences: readonly LockDifference[]): Promise<Finding> => {
    const details = {
      packages: { bash: { version: '6', sha256: '' } },
      lockDifferences,
      pythonPackages: {},
      suite: 'bookworm',
      agentSha256: '',
      sourceDateEpoch: 0,
      compiler: '',
      buildSeconds: 0,
    };
    await mkdir(join(cacheDir, kind, key), { recursive: true });
    const manifest = JSON.stringify({ format: 1, kind, key, files: {}, details });
    await writeFile(join(cacheDir, kind, key, MANIFEST), manifest);
    return judgeImage(await guestPackages(context));
  };
  expect(await judge([])).toEqual({
    verdict: 'ok',
    detail: 'kernel, golden image and model are built; 1 Debian packages as in image/debian.lock',
    remedy: null,
  });
  const finding = await judge([{ name: 'bash', locked: '5', installed: '6' }]);
  expect(finding.verdict).toBe('limited');
  expect(finding.detail).toContain('bash 6 instead of 5');
  expect(finding.remedy).toContain('docs/troubleshooting.md');
});

it('absentArtifacts: a missing input is reported as the cause', async () => {
  const absent = await absentArtifacts(
    {
      cacheDir: join(home, 'cache'),
      sourceDir: join(home, 'nowhere'),
      progress: () => undefined,
      signal: new AbortController().signal,
      log: silentLog,
    },
    { withModel: false },
  );
  expect(absent).toMatchObject([
    { name: 'kernel', cause: { code: 'ENOENT' } },
    { name: 'golden image', cause: { code: 'ENOENT' } },
  ]);
});
