/** `neurovisor df` and `prune`, in a home with a few files. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type CliResult, cli } from '../support/cli.ts';

const FILE = `sha256-${'0'.repeat(64)}`;
const NPM = `sha512-${'2'.repeat(128)}`;
const STEP = `${'1'.repeat(64)}.ext4`;

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-disk-'));
  for (const dir of ['packages', 'dockerfile/steps', 'model']) mkdirSync(join(home, 'cache', dir), { recursive: true });
  writeFileSync(join(home, 'cache/packages', FILE), Buffer.alloc(64 * 1024, 1));
  writeFileSync(join(home, 'cache/packages', NPM), 'x');
  writeFileSync(join(home, 'cache/packages/.new-download'), 'x');
  writeFileSync(join(home, 'cache/dockerfile/steps', STEP), Buffer.alloc(64 * 1024, 1));
  writeFileSync(join(home, 'cache/model/model.gguf'), Buffer.alloc(64 * 1024, 1));
});
afterEach(() => rmSync(home, { recursive: true }));

const run = (...words: string[]): Promise<CliResult> => cli(words, { env: { NEUROVISOR_HOME: home } }).result;
const has = (path: string): boolean => existsSync(join(home, 'cache', path));

describe('df and prune', () => {
  it('df: lists each kind with its size and what prune would free', async () => {
    const { status, stdout } = await run('df', '-o', 'json');
    expect(status).toBe(0);
    const { usage, totalBytes } = JSON.parse(stdout) as {
      usage: { kind: string; bytes: number; reclaimableBytes: number }[];
      totalBytes: number;
    };
    const packages = usage.find(({ kind }) => kind === 'packages');
    expect(packages?.bytes).toBeGreaterThanOrEqual(64 * 1024);
    expect(packages?.reclaimableBytes).toBe(packages?.bytes);
    expect(usage.find(({ kind }) => kind === 'models')).toMatchObject({ reclaimableBytes: 0 });
    expect(totalBytes).toBeGreaterThanOrEqual(3 * 64 * 1024);
    expect((await run('df')).stdout).toMatch(/^packages +\d+/m);
  });

  it('prune: keeps caches; with --all it removes them, but no model and no download under way', async () => {
    expect(await run('prune')).toMatchObject({ status: 0, stderr: '' });
    expect(has(`packages/${FILE}`)).toBe(true);
    const { status, stdout } = await run('prune', '--all', '-o', 'json');
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ templates: [], images: [] });
    expect([has(`packages/${FILE}`), has(`packages/${NPM}`), has(`dockerfile/steps/${STEP}`)]).toEqual([
      false,
      false,
      false,
    ]);
    expect([has('packages/.new-download'), has('model/model.gguf')]).toEqual([true, true]);
  });
});
