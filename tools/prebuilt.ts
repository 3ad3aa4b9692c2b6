/**
 * Makes the compiled files in the repository, so that set-up needs no compiler: the guest kernel
 * (`kernel/prebuilt/`), the guest's init (`guest/prebuilt/`), and the objects of the BPF programs (`bpf/prebuilt/`). Run it
 * when their sources have changed; the kernel takes four minutes on two processors:
 *
 *     node tools/prebuilt.ts [kernel] [init] [bpf] [--source VERSION]
 *
 * Without names, makes all. `--source` uses another version of Debian's linux-source-6.12 than the shipped kernel's. Needs gcc,
 * libc6-dev, make, flex, bison, bc, libelf-dev, xz-utils, clang and libbpf-dev, as tests do.
 */
import { copyFile, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { constants, zstdCompressSync } from 'node:zlib';
import { compressedPath } from '../src/artifacts/image/prebuilt.ts';
import { silentLog } from '../src/base/log.ts';
import { PREBUILT_MANIFEST } from '../src/base/prebuilt/manifest.ts';
import type { Progress } from '../src/base/progress.ts';
import { type MadePart, makeKernel, PARTS, type PartName } from './prebuilt/parts.ts';

const LEVEL = 22;
const WINDOW_LOG = 25;

const sourceDir = join(import.meta.dirname, '..');
const { values, positionals } = parseArgs({ options: { source: { type: 'string' } }, allowPositionals: true });
const isPart = (name: string): name is PartName => Object.hasOwn(PARTS, name);
const unknown = positionals.find((name) => !isPart(name));
if (unknown !== undefined) {
  throw new Error(`no part "${unknown}": use ${Object.keys(PARTS).join(', ')}`);
}
const wanted = positionals.length === 0 ? Object.keys(PARTS) : positionals;
const progress: Progress = (event) => {
  if (event.kind === 'start') console.log(event.title);
};

const scratchDir = await mkdtemp('/var/tmp/nv-prebuilt-');
try {
  const { signal } = new AbortController();
  const context = { sourceDir, scratchDir, progress, signal, log: silentLog };
  for (const name of wanted.filter(isPart)) {
    const isKernel = name === 'kernel';
    const made = isKernel ? makeKernel(context, values.source) : PARTS[name].make(context);
    await ship(await made);
  }
} finally {
  await rm(scratchDir, { recursive: true, force: true });
}

/** Replaces the shipped files of one part. */
async function ship({ shippedDir, manifest, compressed, plain }: MadePart): Promise<void> {
  const fresh = `${shippedDir}.new`;
  await rm(fresh, { recursive: true, force: true });
  await mkdir(fresh);
  for (const path of compressed) {
    const params = {
      [constants.ZSTD_c_compressionLevel]: LEVEL,
      [constants.ZSTD_c_windowLog]: WINDOW_LOG,
      [constants.ZSTD_c_checksumFlag]: 1,
    };
    const bytes = zstdCompressSync(await readFile(path), { params });
    await writeFile(compressedPath(fresh, basename(path)), bytes);
  }
  for (const path of plain) await copyFile(path, join(fresh, basename(path)));
  await writeFile(join(fresh, PREBUILT_MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
  await rm(shippedDir, { recursive: true, force: true });
  await rename(fresh, shippedDir);
  const names = Object.entries(manifest.files).map(([name, { sha256 }]) => `${name} ${sha256}`);
  console.log(`${relative(sourceDir, shippedDir)}: ${names.join(', ')}`);
}
