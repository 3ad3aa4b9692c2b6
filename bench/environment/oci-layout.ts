/** Images that benchmarks make: an OCI layout with one layer of a directory's files. */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip, createZstdCompress } from 'node:zlib';
import { runTool } from '../../src/artifacts/image/tool.ts';

export const COMPRESSIONS = ['gzip', 'zstd'] as const;
export type LayerCompression = (typeof COMPRESSIONS)[number];

export interface Layer {
  readonly path: string;
  readonly digest: string;
  readonly bytes: number;
  readonly compression: LayerCompression;
  /** `sha256:…` of the archive. */
  readonly diffId: string;
  readonly unpackedBytes: number;
}

/**
 * Packs a directory, owned by root and without times, so that equal files make equal layers. @param path without
 * extension
 */
export async function packTree(tree: string, path: string, signal: AbortSignal): Promise<string> {
  const archive = `${path}.tar`;
  const same = ['--sort=name', '--owner=0', '--group=0', '--numeric-owner', '--mtime=@0'];
  await runTool('tar', ['-c', '-f', archive, ...same, '-C', tree, '.'], { signal });
  return archive;
}

/** Compresses an archive into a file beside it. */
export async function compressLayer(
  archive: string,
  compression: LayerCompression,
  signal: AbortSignal,
): Promise<Layer> {
  const path = `${archive}.${compression}`;
  const [unpacked, packed] = [createHash('sha256'), createHash('sha256')];
  const compressor = compression === 'gzip' ? createGzip() : createZstdCompress();
  await pipeline(createReadStream(archive), passing(unpacked), compressor, passing(packed), createWriteStream(path), {
    signal,
  });
  return {
    path,
    digest: `sha256:${packed.digest('hex')}`,
    bytes: (await stat(path)).size,
    compression,
    diffId: `sha256:${unpacked.digest('hex')}`,
    unpackedBytes: (await stat(archive)).size,
  };
}

function passing(hash: ReturnType<typeof createHash>): Transform {
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      done(null, chunk);
    },
  });
}

/**
 * Makes an image of a directory's files, for `oci:DIR:latest`.
 * @param dir must not exist
 * @param config as in the image's configuration: `Env`, `Cmd` …
 */
export async function writeLayout(dir: string, tree: string, config: object, signal: AbortSignal): Promise<void> {
  const blobs = join(dir, 'blobs/sha256');
  await mkdir(blobs, { recursive: true });
  const archive = await packTree(tree, join(dir, 'layer'), signal);
  const layer = await compressLayer(archive, 'gzip', signal);
  await rename(layer.path, join(blobs, hexOf(layer.digest)));
  await rm(archive);
  const add = async (document: object): Promise<{ digest: string; size: number }> => {
    const bytes = Buffer.from(JSON.stringify(document));
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
    await writeFile(join(blobs, hexOf(digest)), bytes);
    return { digest, size: bytes.length };
  };
  const type = 'application/vnd.oci.image';
  const configured = await add({
    os: 'linux',
    architecture: ARCHITECTURES[process.arch] ?? process.arch,
    rootfs: { type: 'layers', diff_ids: [layer.diffId] },
    config,
  });
  const mediaType = `${type}.manifest.v1+json`;
  const manifest = await add({
    schemaVersion: 2,
    mediaType,
    config: { mediaType: `${type}.config.v1+json`, ...configured },
    layers: [{ mediaType: `${type}.layer.v1.tar+gzip`, digest: layer.digest, size: layer.bytes }],
  });
  const annotations = { 'org.opencontainers.image.ref.name': 'latest' };
  const index = { schemaVersion: 2, manifests: [{ mediaType, ...manifest, annotations }] };
  await writeFile(join(dir, 'index.json'), JSON.stringify(index));
  await writeFile(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
}

const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

const hexOf = (digest: string): string => digest.slice('sha256:'.length);
