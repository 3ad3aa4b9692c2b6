import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { Catalog, type StoredImage } from './catalog.ts';

it('Catalog: refuses a list that could not be read again, and keeps the old one', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nv-catalog-'));
  try {
    const catalog = new Catalog(dir);
    const { signal } = new AbortController();
    const digest = `sha256:${'a'.repeat(64)}`;
    const image = (label: string): StoredImage => ({
      digest,
      names: ['a:1'],
      platform: 'linux/amd64',
      pulledAtMs: 0,
      configDigest: digest,
      layers: [],
      config: {
        user: '',
        env: {},
        workdir: '/',
        entrypoint: [],
        cmd: [],
        exposedPorts: [],
        labels: { label },
        healthcheck: null,
        stopSignal: null,
      },
    });
    const write = (images: readonly StoredImage[]) => catalog.update(signal, async () => ({ images, result: null }));
    const label = 'x'.repeat(3 << 20);
    await write([image(label)]);
    const many = Array.from({ length: 22 }, () => image(label));
    await expect(write(many)).rejects.toMatchObject({
      code: 'image_too_large',
      remedy: expect.stringContaining('image prune'),
    });
    expect(await catalog.read()).toHaveLength(1);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
