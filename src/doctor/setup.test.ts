import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { silentLog } from '../base/log.ts';
import { absentArtifacts } from '../image/prepared.ts';
import { checkSetup } from './setup.ts';

let home: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-doctor-'));
});
afterEach(() => rm(home, { recursive: true }));

it('checkSetup: artifacts of another version are not those that a start takes', async () => {
  for (const kind of ['kernel', 'rootfs', 'model'])
    await mkdir(join(home, 'cache', kind, 'other'), { recursive: true });
  const finding = await checkSetup({ config: { home }, log: silentLog });
  expect(finding.verdict).toBe('limited');
  expect(finding.detail).toMatch(/kernel.*, golden image, model$/);
  expect(finding.remedy).toContain('setup');
});

it('checkSetup: a new home is told as that', async () => {
  const finding = await checkSetup({ config: { home }, log: silentLog });
  expect(finding).toMatchObject({ verdict: 'limited', detail: 'not set up yet' });
});

it('absentArtifacts: an input that is missing is the cause, not a failure', async () => {
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
