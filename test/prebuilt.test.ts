/** What the repository ships compiled fits its sources. The long run builds it again: `test/component/prebuilt.test.ts`. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { INIT, prebuiltInitDir } from '../src/artifacts/image/init.ts';
import { configViolations } from '../src/artifacts/image/kernel/config.ts';
import { CONFIG, prebuiltKernelDir, prebuiltKernelSchema, VMLINUX } from '../src/artifacts/image/kernel/kernel.ts';
import { unpackPrebuilt } from '../src/artifacts/image/prebuilt.ts';
import { digestFile } from '../src/artifacts/image/verify.ts';
import { prebuiltSchema, readPrebuilt } from '../src/base/prebuilt/manifest.ts';
import { PROGRAMS } from '../src/machine/observe/compile.ts';
import { objectName } from '../src/machine/observe/shipped.ts';
import { PARTS } from '../tools/prebuilt/parts.ts';

const ROOT = join(import.meta.dirname, '..');
const { signal } = new AbortController();

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-prebuilt-'));
});
afterEach(() => rm(dir, { recursive: true }));

describe('prebuilt', () => {
  it.each(Object.entries(PARTS))('%s: is made of the sources as they are', async (name, part) => {
    const manifest = await readPrebuilt(part.shippedDir(ROOT), prebuiltSchema);
    expect(
      manifest?.inputs,
      `the sources of the shipped ${name} changed: run \`node tools/prebuilt.ts ${name}\` and commit the result`,
    ).toBe(await part.inputs(ROOT));
  });

  it('kernel: is the one of its manifest, with a configuration that holds', async () => {
    const shipped = prebuiltKernelDir(ROOT);
    const manifest = await readPrebuilt(shipped, prebuiltKernelSchema);
    if (manifest === undefined) throw new Error('no kernel is shipped');
    await unpackPrebuilt({ dir: shipped, name: VMLINUX, manifest, to: join(dir, 'k'), signal });
    expect(await digestFile(join(shipped, CONFIG))).toBe(manifest.files[CONFIG]?.sha256);
    const texts = ['kernel/guest.config', 'kernel/deny.txt', `kernel/prebuilt/${CONFIG}`];
    const [fragment = '', denied = '', final = ''] = await Promise.all(
      texts.map((path) => readFile(join(ROOT, path), 'utf8')),
    );
    expect(configViolations(fragment, denied, final)).toEqual([]);
    expect(final).toContain(`CONFIG_CC_VERSION_TEXT="${manifest.tools['gcc']}"`);
  });

  it('init: is the one of its manifest', async () => {
    const shipped = prebuiltInitDir(ROOT);
    const manifest = await readPrebuilt(shipped, prebuiltSchema);
    if (manifest === undefined) throw new Error('no init is shipped');
    await unpackPrebuilt({ dir: shipped, name: INIT, manifest, to: join(dir, INIT), signal });
  });

  it('bpf: every program has the object of the manifest', async () => {
    const shipped = PARTS.bpf.shippedDir(ROOT);
    const manifest = await readPrebuilt(shipped, prebuiltSchema);
    for (const program of PROGRAMS) {
      const name = objectName(program);
      expect(await digestFile(join(shipped, name))).toBe(manifest?.files[name]?.sha256);
    }
  });
});
