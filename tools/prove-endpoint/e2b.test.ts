import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { PACKAGE_DIR } from '../../src/base/package-dir.ts';
import { E2B_VERSION, loadE2b } from './e2b.ts';

const ROOT = PACKAGE_DIR;

it('loadE2b: uses the first folder that has the package', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'nv-no-e2b-'));
  try {
    const { Sandbox } = await loadE2b([dir, ROOT]);
    expect(Sandbox.create).toBeTypeOf('function');
  } finally {
    await rm(dir, { recursive: true });
  }
});

it('loadE2b: without the package, names what to install', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'nv-no-e2b-'));
  try {
    await expect(loadE2b([dir])).rejects.toMatchObject({
      code: 'client_missing',
      remedy: `Install it in the current folder: npm install --no-save e2b@${E2B_VERSION}`,
    });
  } finally {
    await rm(dir, { recursive: true });
  }
});

it('E2B_VERSION: is the version that this checkout tests', async () => {
  const text = await readFile(join(ROOT, 'package.json'), 'utf8');
  const { devDependencies } = JSON.parse(text) as { devDependencies: Record<string, string> };
  expect(devDependencies['e2b']).toBe(E2B_VERSION);
});
