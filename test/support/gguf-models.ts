/** Small GGUF files, and manifests of models in the layouts of registries. */
import { digest, type TestImage } from './oci-images.ts';

type Value = number | bigint | string | boolean | readonly string[];

export interface TestGguf {
  readonly values?: Readonly<Record<string, Value>>;
  /** F32 numbers of the only tensor; 0 without a tensor. */
  readonly numbers?: number;
  readonly version?: number;
}

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const text = (value: string): Buffer => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);

function encoded(value: Value): Buffer {
  if (typeof value === 'number') return Buffer.concat([u32(4), u32(value)]);
  if (typeof value === 'bigint') return Buffer.concat([u32(10), u64(value)]);
  if (typeof value === 'boolean') return Buffer.concat([u32(7), Buffer.of(value ? 1 : 0)]);
  if (typeof value === 'string') return Buffer.concat([u32(8), text(value)]);
  return Buffer.concat([u32(9), u32(8), u64(value.length), ...value.map(text)]);
}

/** A file that the header check accepts, though llama.cpp would miss most of it. */
export function makeGguf({ values = {}, numbers = 256, version = 3 }: TestGguf = {}): Buffer {
  const all: Record<string, Value> = {
    'general.architecture': 'llama',
    'general.file_type': 15,
    'llama.context_length': 2048,
    'tokenizer.chat_template': '{{ messages }}',
    'tokenizer.ggml.tokens': ['a', 'b', ''],
    ...values,
  };
  const keys = Object.entries(all).map(([key, value]) => Buffer.concat([text(key), encoded(value)]));
  const tensor = Buffer.concat([text('w'), u32(1), u64(numbers), u32(0), u64(0)]);
  const head = Buffer.concat([
    Buffer.from('GGUF'),
    u32(version),
    u64(numbers === 0 ? 0 : 1),
    u64(keys.length),
    ...keys,
    ...(numbers === 0 ? [] : [tensor]),
  ]);
  const padding = Buffer.alloc((32 - (head.length % 32)) % 32);
  return Buffer.concat([head, padding, Buffer.alloc(numbers * 4, 1)]);
}

/** The parts of a split model. */
export function makeParts(count: number): readonly Buffer[] {
  return Array.from({ length: count }, (_, index) =>
    makeGguf({ values: { 'split.no': index, 'split.count': count }, numbers: 256 + index }),
  );
}

export interface TestLayerOf {
  readonly mediaType: string;
  readonly bytes: Buffer;
  readonly annotations?: Readonly<Record<string, string>>;
}

const OCI = 'application/vnd.oci.image.manifest.v1+json';

/** An artifact with these layers. */
export function makeArtifact(
  layers: readonly TestLayerOf[],
  {
    config = 'application/vnd.oci.empty.v1+json',
    mediaType = OCI,
    ...more
  }: { readonly config?: string; readonly mediaType?: string; readonly artifactType?: string } = {},
): TestImage {
  const blobs = new Map<string, Buffer>();
  const add = ({ mediaType: type, bytes, annotations }: TestLayerOf) => {
    const own = digest(bytes);
    blobs.set(own, bytes);
    return { mediaType: type, digest: own, size: bytes.length, ...(annotations === undefined ? {} : { annotations }) };
  };
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType,
      ...more,
      config: add({ mediaType: config, bytes: Buffer.from('{}') }),
      layers: layers.map(add),
    }),
  );
  const manifestDigest = digest(manifest);
  blobs.set(manifestDigest, manifest);
  return { manifestDigest, blobs, diffIds: [] };
}

const LICENSE = Buffer.from('Apache-2.0');

/** In the layout of `docker model package`. */
export const dockerModel = (files: readonly Buffer[]): TestImage =>
  makeArtifact(
    [
      ...files.map((bytes) => ({ mediaType: 'application/vnd.docker.ai.gguf.v3', bytes })),
      { mediaType: 'application/vnd.docker.ai.license', bytes: LICENSE },
    ],
    { config: 'application/vnd.docker.ai.model.config.v0.1+json' },
  );

/** In the layout of modctl. */
export const modelPack = (file: string, bytes: Buffer): TestImage =>
  makeArtifact(
    [
      {
        mediaType: 'application/vnd.cncf.model.weight.v1.raw',
        bytes,
        annotations: { 'org.cncf.model.filepath': file },
      },
      {
        mediaType: 'application/vnd.cncf.model.doc.v1.raw',
        bytes: LICENSE,
        annotations: { 'org.cncf.model.filepath': 'README.md' },
      },
    ],
    {
      config: 'application/vnd.cncf.model.config.v1+json',
      artifactType: 'application/vnd.cncf.model.manifest.v1+json',
    },
  );

/** In the layout of `oras push REF FILE…`. */
export const orasFiles = (files: Readonly<Record<string, Buffer>>): TestImage =>
  makeArtifact(
    Object.entries(files).map(([title, bytes]) => ({
      mediaType: 'application/vnd.oci.image.layer.v1.tar',
      bytes,
      annotations: { 'org.opencontainers.image.title': title },
    })),
    { artifactType: 'application/vnd.unknown.artifact.v1' },
  );

/** In the layout of Ollama's registry. */
export const ollamaModel = (bytes: Buffer): TestImage =>
  makeArtifact(
    [
      { mediaType: 'application/vnd.ollama.image.model', bytes },
      { mediaType: 'application/vnd.ollama.image.template', bytes: Buffer.from('{{ .Prompt }}') },
    ],
    {
      config: 'application/vnd.docker.container.image.v1+json',
      mediaType: 'application/vnd.docker.distribution.manifest.v2+json',
    },
  );
