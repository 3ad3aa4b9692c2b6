/** How fast a VM makes a disk of an image's layer, including the start of that VM: against tar on the host. */
import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { runTool } from '../../src/artifacts/image/tool.ts';
import type { ImageBuilder } from '../../src/artifacts/oci/builder.ts';
import { MIB } from '../../src/base/units.ts';
import { openBuilder } from '../../src/host/runtime/images.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
import { imagesContext } from './images-context.ts';
import { COMPRESSIONS, compressLayer, type Layer, type LayerCompression, packTree } from './oci-layout.ts';
import { makeSampleTree } from './sample-tree.ts';

const LAYER_MIB = 128;
const MB = 1e6;

const nameOf = (compression: LayerCompression): string => `image.unpack/${compression}`;

export const unpackBenchmark: Benchmark = {
  names: COMPRESSIONS.map(nameOf),
  summary: `a VM makes a disk of a layer of ${LAYER_MIB} MiB, with its start: against tar on the host`,
  async measure(context) {
    const { runtime, signal, wants, say } = context;
    const dir = await mkdtemp(join(runtime.home.dir, 'bench-'));
    try {
      say(`make a layer of ${LAYER_MIB} MiB`);
      const tree = join(dir, 'tree');
      await makeSampleTree(tree, LAYER_MIB * MIB);
      const archive = await packTree(tree, join(dir, 'layer'), signal);
      await rm(tree, { recursive: true });
      const builder = await openBuilder(imagesContext(context));
      const rows: Measurement[] = [];
      for (const compression of COMPRESSIONS) {
        if (!wants(nameOf(compression))) continue;
        const layer = await compressLayer(archive, compression, signal);
        rows.push(await measureLayer(context, builder, layer, dir));
      }
      return rows;
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  },
};

async function measureLayer(
  context: BenchContext,
  builder: ImageBuilder,
  layer: Layer,
  dir: string,
): Promise<Measurement> {
  const { runtime, signal } = context;
  const { compression, unpackedBytes } = layer;
  const attempts = new Attempts(signal);
  const speed = (ms: number) => ({ speed: unpackedBytes / MB / (ms / 1000) });
  const ways = {
    ours: () => attempts.run(async () => speed(await buildMs(builder, layer, dir, signal))),
    tar: async () => speed(await tarMs(layer, join(dir, 'unpacked'), signal)),
  };
  const { ours, tar } = await compare(context, compression, ways, { warmUp: false });
  const packed = Math.round(layer.bytes / MIB);
  const note = `bytes of the archive, ${Math.round(unpackedBytes / MIB)} MiB, ${packed} of them compressed; ours checks the digest and includes a boot`;
  const row = rowsOf('MB/s', runtime.driver.accelerator);
  const baseline = ['tar on the host, until it is on the disk', tar('speed')] as const;
  return row(nameOf(compression), ours('speed'), baseline, attempts.failures(note));
}

async function buildMs(builder: ImageBuilder, layer: Layer, dir: string, signal: AbortSignal): Promise<number> {
  const { path: blobPath, bytes: blobBytes, compression, diffId, unpackedBytes } = layer;
  const out = join(dir, 'layer.erofs');
  const job = { blobPath, blobBytes, compression, diffId, unpackedBytesMax: 2 * unpackedBytes };
  try {
    const began = performance.now();
    await builder.layer(job, out, signal);
    const ms = performance.now() - began;
    if ((await stat(out)).size < unpackedBytes / 2) throw new Error('the disk is too small');
    return ms;
  } finally {
    await rm(out, { force: true });
  }
}

async function tarMs({ path, compression }: Layer, to: string, signal: AbortSignal): Promise<number> {
  try {
    await mkdir(to);
    const began = performance.now();
    const options = { signal, missingRemedy: 'Debian: apt-get install tar gzip zstd' };
    await runTool('tar', ['-x', `--${compression}`, '-f', path, '-C', to], options);
    await runTool('sync', ['--file-system', to], options);
    return performance.now() - began;
  } finally {
    await rm(to, { recursive: true, force: true });
  }
}
