/**
 * Parses manifests of models in registries to find GGUF blobs. A registry wrote them, so every count, length and size
 * is bounded. Pure. Four layouts are in use:
 *
 *     Docker Model Runner   application/vnd.docker.ai.gguf.v3, several for a split model    (docker/model-distribution)
 *     CNCF ModelPack        application/vnd.cncf.model.weight.v1.raw, .gguf; names in org.cncf.model.filepath  (model-spec)
 *     Ollama                application/vnd.ollama.image.model, in a Docker manifest
 *     ORAS and others       any type; the file's name in org.opencontainers.image.title
 */
import { z } from 'zod';
import { type Blob, DOCUMENT_BYTES_MAX } from './documents.ts';
import { OciError } from './errors.ts';
import { DIGEST } from './reference.ts';

export interface ModelBlob extends Blob {
  /** The publisher's name without directories; `null` if there is none. */
  readonly name: string | null;
}

export interface ModelManifest {
  /** Every blob, including configuration, licenses and templates. */
  readonly blobs: readonly (Blob & { readonly mediaType: string })[];
  /** At least one, in the manifest's order. */
  readonly files: readonly ModelBlob[];
  /** True for Ollama's layout: clients of images refuse its types. */
  readonly isOllama: boolean;
}

/** Includes files of a split model, and those beside them. */
const BLOBS_MAX = 1_000;
const TEXT_CHARACTERS_MAX = 4_096;
const CONFIG_BYTES_MAX = DOCUMENT_BYTES_MAX;

const text = z.string().max(TEXT_CHARACTERS_MAX);
const descriptor = z.object({
  mediaType: text,
  digest: z.string().regex(DIGEST),
  size: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER),
  annotations: z.record(z.string(), z.string()).nullish(),
});
type Descriptor = z.infer<typeof descriptor>;
const manifestSchema = z.object({
  schemaVersion: z.literal(2),
  config: descriptor,
  layers: z.array(descriptor).max(BLOBS_MAX),
});
const indexSchema = z.object({ schemaVersion: z.literal(2), manifests: z.array(descriptor).max(BLOBS_MAX) });

/**
 * @param document of a registry
 * @returns the manifest; or the digest of the only one of an index
 * @throws OciError `image_invalid`, `image_unsupported`, `image_too_large`
 */
export function parseModelManifest(
  document: Uint8Array,
): { readonly manifest: ModelManifest } | { readonly digest: string } {
  if (document.length > DOCUMENT_BYTES_MAX) {
    throw new OciError('image_too_large', 'the manifest of the model is too large');
  }
  const json = parseJson(document);
  const isIndex = typeof json === 'object' && json !== null && 'manifests' in json;
  return isIndex ? { digest: onlyOf(json) } : { manifest: toManifest(json) };
}

function onlyOf(json: unknown): string {
  const { manifests } = check(indexSchema, json);
  // Signatures and attestations are listed beside it.
  const models = manifests.filter(({ annotations }) => annotations?.['vnd.docker.reference.type'] === undefined);
  const [only, ...more] = models;
  if (only === undefined) throw unsupported('its index is empty');
  if (more.length === 0) return only.digest;
  const digests = models.slice(0, 10).map(({ digest }) => digest);
  throw unsupported(
    `it has ${models.length} variants`,
    `Name one of them: NAME@DIGEST, with one of ${digests.join(', ')}`,
  );
}

function toManifest(json: unknown): ModelManifest {
  const { config, layers } = check(manifestSchema, json);
  if (config.size > CONFIG_BYTES_MAX) {
    throw new OciError('image_too_large', 'the configuration of the model is too large');
  }
  // A blob may be listed twice, but has one size.
  const blobs = new Map<string, Blob & { readonly mediaType: string }>();
  for (const { digest, size, mediaType } of [config, ...layers]) {
    if ((blobs.get(digest)?.bytes ?? size) !== size) throw invalid('one blob has two sizes');
    blobs.set(digest, { digest, bytes: size, mediaType });
  }
  const files = layers.filter(isGguf).map(toFile);
  if (files.length === 0) throw withoutGguf(config, layers);
  if (new Set(files.map(({ digest }) => digest)).size < files.length) {
    throw invalid('it has the same file twice');
  }
  const isOllama = layers.some(({ mediaType }) => mediaType.startsWith(OLLAMA));
  if (layers.some(({ mediaType }) => mediaType === `${OLLAMA}adapter`)) {
    throw unsupported('it is an adapter for another model', 'Use a model with merged weights.');
  }
  return { blobs: [...blobs.values()], files, isOllama };
}

const OLLAMA = 'application/vnd.ollama.image.';
const WEIGHTS = new Set([
  'application/vnd.docker.ai.gguf.v3',
  'application/vnd.docker.ai.model.file.v1+gguf',
  'application/vnd.cncf.model.weight.v1.gguf',
  'application/vnd.cncf.model.weight.gguf',
  `${OLLAMA}model`,
]);
const NAMES = ['org.cncf.model.filepath', 'org.opencontainers.image.title'];

function isGguf(layer: Descriptor): boolean {
  if (WEIGHTS.has(layer.mediaType)) return true;
  return !isPacked(layer) && /\.gguf$/i.test(nameOf(layer) ?? '');
}

/** An archived or compressed file would have to be unpacked on the host. ORAS gives any file the type of a layer. */
const isPacked = ({ mediaType }: Descriptor): boolean =>
  /[.+](tar|gzip|zstd)$/.test(mediaType) && mediaType !== 'application/vnd.oci.image.layer.v1.tar';

function nameOf({ annotations }: Descriptor): string | null {
  for (const key of NAMES) {
    const path = annotations?.[key];
    if (path !== undefined && path.length <= TEXT_CHARACTERS_MAX) return path.replace(/^.*\//s, '');
  }
  return null;
}

function toFile(layer: Descriptor): ModelBlob {
  return { digest: layer.digest, bytes: layer.size, name: nameOf(layer) };
}

function withoutGguf(config: Descriptor, layers: readonly Descriptor[]): OciError {
  if (layers.some(isPacked) && layers.some(({ mediaType }) => /model/.test(mediaType))) {
    return unsupported(
      'its weights are packed in archives',
      'Use one whose weights are plain GGUF files; modctl packs them so with --raw.',
    );
  }
  const types = [...new Set([config, ...layers].map(({ mediaType }) => mediaType))];
  return unsupported(
    `none of its files is a GGUF file, but of the types ${types.slice(0, 6).map(shown).join(', ')}`,
    'Use a model in the GGUF format. For a container image: neurovisor image pull',
  );
}

function parseJson(document: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(document));
  } catch (cause) {
    throw invalid(cause);
  }
}

function check<T>(schema: z.ZodType<T>, json: unknown): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw invalid(`${issue?.path.map(String).join('.') || 'it'}: ${issue?.message ?? 'invalid'}`);
}

const shown = (given: string): string => JSON.stringify(given.slice(0, 100)).slice(1, -1);

function invalid(cause: unknown): OciError {
  return new OciError('image_invalid', 'the model has an invalid manifest', {
    cause,
    remedy: 'Pull it again; if that fails, too, ask its publisher.',
  });
}

function unsupported(why: string, remedy?: string): OciError {
  return new OciError('image_unsupported', `the model can't be used: ${why}`, { remedy });
}
