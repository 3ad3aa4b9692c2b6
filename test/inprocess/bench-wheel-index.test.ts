/** The Python package index of `bench packages`: clients find a whole wheel there, with its digest. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { WheelIndex } from '../../bench/packages/wheel-index.ts';

const dir = mkdtempSync(join(tmpdir(), 'nv-wheel-index-'));
const { signal } = new AbortController();
afterAll(() => rmSync(dir, { recursive: true }));

it('each wheel has a page and a file, whose downloads are counted; others are missing', async () => {
  await using index = await WheelIndex.start(dir);
  const one = await index.add('nvone', 1000, signal);
  const two = await index.add('nvtwo', 1000, signal);
  expect(one.digest).not.toBe(two.digest);
  const page = await (await fetch(`${index.url}nvone/`)).json();
  const [file] = (page as { files: { url: string; hashes: { sha256: string } }[] }).files;
  expect(file?.hashes.sha256).toBe(one.digest);
  expect(index.fetched).toBe(0);
  const content = await (await fetch(new URL(file?.url ?? '', index.url))).bytes();
  expect(createHash('sha256').update(content).digest('hex')).toBe(one.digest);
  expect([content.length, index.fetched]).toEqual([one.bytes, 1]);
  const names = Buffer.from(content).toString('latin1');
  for (const name of ['nvone/data', 'nvone-1.0.dist-info/METADATA', 'nvone-1.0.dist-info/RECORD']) {
    expect(names).toContain(name);
  }
  expect((await fetch(`${index.url}nvthree/`)).status).toBe(404);
});
