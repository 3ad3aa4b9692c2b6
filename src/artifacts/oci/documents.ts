/**
 * Parses the JSON documents of an image: index, manifest and configuration, of OCI and of Docker's schema 2. A registry
 * wrote them, so every count, length and size is bounded, and a digest is computed from the bytes before anything is
 * trusted. Pure.
 *
 *     index ──choice by architecture──► manifest ──► configuration     (JSON, ≤ 4 MiB each)
 *                                          └────────► layers           (never opened on the host)
 *
 * OCI image-spec 1.1; Docker's "Image Manifest Version 2, Schema 2".
 */

import { createHash } from 'node:crypto';
import { z } from 'zod';
import { MIB } from '../../base/units.ts';
import type { ProcessConfig } from '../../sandbox/contract/environment.ts';
import { OciError } from './errors.ts';
import { DIGEST } from './reference.ts';

/** Registries accept no larger manifest. */
export const DOCUMENT_BYTES_MAX = 4 * MIB;
/** As many as overlayfs allows in Docker. */
export const LAYERS_MAX = 127;
const MANIFESTS_MAX = 1000;
const TEXT_CHARACTERS_MAX = 4096;
const ITEMS_MAX = 1000;
const LABEL_CHARACTERS_MAX = 65_536;
const TOTAL_CHARACTERS_MAX = 262_144;

export type Compression = 'none' | 'gzip' | 'zstd';

export interface Blob {
  /** `sha256:…` of the stored bytes. */
  readonly digest: string;
  readonly bytes: number;
}

export interface LayerBlob extends Blob {
  readonly compression: Compression;
}

export interface Manifest {
  readonly config: Blob;
  /** Bottom first. */
  readonly layers: readonly LayerBlob[];
}

export interface ImageIndex {
  readonly manifests: readonly {
    readonly blob: Blob;
    /** `linux/arm64/v8`; `null` if the index does not say. */
    readonly platform: Platform | null;
  }[];
}

export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant: string | null;
}

export interface ImageConfig extends ProcessConfig {
  readonly labels: Readonly<Record<string, string>>;
  readonly healthcheck: Healthcheck | null;
}

export interface Healthcheck {
  /** Excludes its first word, which is `kind`. */
  readonly command: readonly string[];
  readonly kind: 'none' | 'exec' | 'shell';
  /** Milliseconds; default if null. */
  readonly intervalMs: number | null;
  readonly timeoutMs: number | null;
  readonly retries: number | null;
}

export interface ParsedConfig {
  readonly platform: Platform;
  readonly config: ImageConfig;
  /** `sha256:…` of each layer's unpacked archive, bottom first. */
  readonly diffIds: readonly string[];
}

export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

const INDEX_TYPES = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
];
const MANIFEST_TYPES = [
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
];
const CONFIG_TYPES = ['application/vnd.oci.image.config.v1+json', 'application/vnd.docker.container.image.v1+json'];
const LAYER_TYPES: Readonly<Record<string, Compression>> = {
  'application/vnd.oci.image.layer.v1.tar': 'none',
  'application/vnd.oci.image.layer.v1.tar+gzip': 'gzip',
  'application/vnd.oci.image.layer.v1.tar+zstd': 'zstd',
  'application/vnd.docker.image.rootfs.diff.tar': 'none',
  'application/vnd.docker.image.rootfs.diff.tar.gzip': 'gzip',
  'application/vnd.docker.image.rootfs.diff.tar.zstd': 'zstd',
};

const text = z.string().max(TEXT_CHARACTERS_MAX);
const bytes = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const descriptor = z.object({ mediaType: text, digest: z.string().regex(DIGEST), size: bytes });
const platformSchema = z.object({ os: text, architecture: text, variant: text.nullish() });
const indexSchema = z.object({
  schemaVersion: z.literal(2),
  mediaType: text.optional(),
  manifests: z
    .array(
      descriptor.extend({
        platform: platformSchema.nullish(),
        annotations: z.record(z.string(), z.string()).nullish(),
      }),
    )
    .max(MANIFESTS_MAX),
});
const manifestSchema = z.object({
  schemaVersion: z.literal(2),
  mediaType: text.optional(),
  config: descriptor,
  layers: z.array(descriptor).max(LAYERS_MAX),
});
const words = z.array(text).max(ITEMS_MAX).nullish();
const configSchema = z.object({
  os: text,
  architecture: text,
  variant: text.nullish(),
  rootfs: z.object({ type: z.literal('layers'), diff_ids: z.array(z.string().regex(DIGEST)).max(LAYERS_MAX) }),
  config: z
    .object({
      User: text.nullish(),
      Env: z.array(z.string().max(LABEL_CHARACTERS_MAX)).max(ITEMS_MAX).nullish(),
      WorkingDir: text.nullish(),
      Entrypoint: words,
      Cmd: words,
      ExposedPorts: z.record(text, z.unknown()).nullish(),
      Labels: z.record(text, z.string().max(LABEL_CHARACTERS_MAX)).nullish(),
      Healthcheck: z
        .object({
          Test: words,
          Interval: z.number().nullish(),
          Timeout: z.number().nullish(),
          Retries: z.number().nullish(),
        })
        .nullish(),
      StopSignal: text.nullish(),
    })
    .nullish(),
});

/** @param document an index or a manifest @throws OciError `image_invalid`, `image_unsupported`, `image_too_large` */
export function parseDocument(document: Uint8Array): { readonly index: ImageIndex } | { readonly manifest: Manifest } {
  const json = parseJson(document, 'manifest');
  const { schemaVersion, mediaType, manifests } = asObject(json, 'manifest');
  if (schemaVersion === 1) {
    throw unsupported('its manifest has schema version 1', 'Push the image again with a newer Docker.');
  }
  if (mediaType !== undefined && typeof mediaType !== 'string') {
    throw invalid('manifest', 'its type is not text');
  }
  if (mediaType !== undefined && ![...INDEX_TYPES, ...MANIFEST_TYPES].includes(mediaType)) {
    throw unsupported(`its manifest has the type ${shown(mediaType)}`);
  }
  const isIndex = manifests !== undefined;
  if (mediaType !== undefined && (isIndex ? MANIFEST_TYPES : INDEX_TYPES).includes(mediaType)) {
    // A document with the type of one kind and the content of another could be read as either.
    throw invalid('manifest', 'its type and its content differ');
  }
  return isIndex ? { index: toIndex(json) } : { manifest: toManifest(json) };
}

function toIndex(json: unknown): ImageIndex {
  const { manifests } = check(indexSchema, json, 'index');
  return {
    manifests: manifests
      // Signatures and attestations are listed beside the images.
      .filter(({ annotations }) => annotations?.['vnd.docker.reference.type'] === undefined)
      .filter(({ mediaType }) => MANIFEST_TYPES.includes(mediaType))
      .map(({ digest, size, platform }) => ({
        blob: { digest, bytes: size },
        platform: platform ? toPlatform(platform) : null,
      })),
  };
}

function toManifest(json: unknown): Manifest {
  const { config, layers } = check(manifestSchema, json, 'manifest');
  if (!CONFIG_TYPES.includes(config.mediaType)) {
    throw unsupported(`it is not an image but an artifact of the type ${shown(config.mediaType)}`);
  }
  if (config.size > DOCUMENT_BYTES_MAX) throw tooLarge('its configuration');
  if (layers.length === 0) throw unsupported('it has no layers');
  return {
    config: { digest: config.digest, bytes: config.size },
    layers: layers.map(({ mediaType, digest, size }) => {
      const compression = Object.hasOwn(LAYER_TYPES, mediaType) ? LAYER_TYPES[mediaType] : undefined;
      if (compression !== undefined) return { digest, bytes: size, compression };
      if (/foreign|nondistributable/.test(mediaType)) {
        throw unsupported('it has a foreign layer, which its registry does not store');
      }
      throw unsupported(`it has a layer of the type ${shown(mediaType)}`);
    }),
  };
}

/**
 * Chooses the manifest of an index for this machine.
 * @throws OciError `image_unsupported`, which names the platforms that the index has
 */
export function choosePlatform({ manifests }: ImageIndex, architecture: string): Blob {
  const ours = manifests.filter(({ platform }) => platform?.os === 'linux' && platform.architecture === architecture);
  // Any processor of the architecture runs an image without a variant, or with the first one.
  const base = BASE_VARIANTS[architecture];
  const [one] = [...ours.filter(({ platform }) => [null, base].includes(platform?.variant ?? null)), ...ours];
  if (one !== undefined) return one.blob;
  throw noPlatform(
    architecture,
    manifests.map(({ platform }) => (platform === null ? 'unknown' : platformText(platform))),
  );
}

const BASE_VARIANTS: Readonly<Record<string, string>> = { amd64: 'v1', arm64: 'v8' };

/** @throws OciError `image_unsupported` */
export function requirePlatform(platform: Platform, architecture: string): void {
  if (platform.os === 'linux' && platform.architecture === architecture) return;
  throw noPlatform(architecture, [platformText(platform)]);
}

export function platformText({ os, architecture, variant }: Platform): string {
  return [os, architecture, ...(variant === null ? [] : [variant])].join('/');
}

function noPlatform(architecture: string, there: readonly string[]): OciError {
  const list = [...new Set(there)].slice(0, 20).map(shown).join(', ');
  return unsupported(
    `it is not for linux/${architecture} but for ${list === '' ? 'nothing' : list}`,
    `Use an image that is built for linux/${architecture}.`,
  );
}

/** @throws OciError `image_invalid`, `image_too_large` */
export function parseConfig(document: Uint8Array): ParsedConfig {
  const what = 'configuration';
  const parsed = check(configSchema, parseJson(document, what), what);
  const config = parsed.config ?? {};
  const labels = Object.entries(config.Labels ?? {});
  checkTotal('labels', labels.flat(), 2 * ITEMS_MAX);
  checkTotal('variables', config.Env ?? [], ITEMS_MAX);
  const workdir = config.WorkingDir || '/';
  const texts = [config.User ?? '', workdir, ...(config.Entrypoint ?? []), ...(config.Cmd ?? [])];
  if (texts.some((one) => one.includes('\0'))) throw invalid(what, 'it has a NUL character');
  if (!workdir.startsWith('/')) throw invalid(what, 'its working directory is not absolute');
  const ports = Object.keys(config.ExposedPorts ?? {});
  return {
    platform: toPlatform(parsed),
    diffIds: parsed.rootfs.diff_ids,
    config: {
      user: config.User ?? '',
      env: toEnv(config.Env ?? []),
      workdir,
      entrypoint: config.Entrypoint ?? [],
      cmd: config.Cmd ?? [],
      exposedPorts: ports.filter((port) => /^\d{1,5}(-\d{1,5})?\/(tcp|udp|sctp)$/.test(port)),
      labels: Object.fromEntries(labels),
      healthcheck: toHealthcheck(config.Healthcheck),
      stopSignal: config.StopSignal || null,
    },
  };
}

function toEnv(list: readonly string[]): Readonly<Record<string, string>> {
  const pairs = list.map((line) => {
    const equals = line.indexOf('=');
    const [name, value] = equals < 0 ? [line, ''] : [line.slice(0, equals), line.slice(equals + 1)];
    if (name === '' || line.includes('\0')) {
      throw invalid('configuration', `${shown(line)} is not a variable`);
    }
    return [name, value] as const;
  });
  return Object.fromEntries(pairs);
}

const NS_PER_MS = 1_000_000;

function toHealthcheck(given: NonNullable<z.infer<typeof configSchema>['config']>['Healthcheck']): Healthcheck | null {
  const [first, ...command] = given?.Test ?? [];
  const kinds: Readonly<Record<string, Healthcheck['kind']>> = { NONE: 'none', CMD: 'exec', 'CMD-SHELL': 'shell' };
  const kind = first !== undefined && Object.hasOwn(kinds, first) ? kinds[first] : undefined;
  if (!given || kind === undefined) return null;
  const positive = (value: number | null | undefined, unit: number): number | null =>
    value && value > 0 ? Math.round(value / unit) : null;
  return {
    kind,
    command,
    intervalMs: positive(given.Interval, NS_PER_MS),
    timeoutMs: positive(given.Timeout, NS_PER_MS),
    retries: positive(given.Retries, 1),
  };
}

function toPlatform(given: z.infer<typeof platformSchema>): Platform {
  return { os: given.os, architecture: given.architecture, variant: given.variant || null };
}

function checkTotal(what: string, texts: readonly string[], itemsMax: number): void {
  const total = texts.reduce((sum, one) => sum + one.length, 0);
  if (texts.length > itemsMax || total > TOTAL_CHARACTERS_MAX) throw tooLarge(`its ${what}`);
}

function parseJson(document: Uint8Array, what: string): unknown {
  if (document.length > DOCUMENT_BYTES_MAX) throw tooLarge(`its ${what}`);
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(document));
  } catch (cause) {
    throw invalid(what, cause);
  }
}

function asObject(json: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof json === 'object' && json !== null && !Array.isArray(json)) return { ...json };
  throw invalid(what, 'it is not an object');
}

function check<T>(schema: z.ZodType<T>, json: unknown, what: string): T {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const at = issue?.path.map(String).join('.').slice(0, 100) ?? '';
  throw invalid(what, `${at}: ${issue?.message.slice(0, 200)}`);
}

/** Shortens a registry's text to one line. */
const shown = (given: string): string => JSON.stringify(given.slice(0, 100)).slice(1, -1);

function invalid(what: string, cause: unknown): OciError {
  return new OciError('image_invalid', `the image has an invalid ${what}`, {
    cause,
    remedy: 'Pull it again; if that fails, too, ask its publisher.',
  });
}

function unsupported(why: string, remedy?: string): OciError {
  return new OciError('image_unsupported', `the image can't be used: ${why}`, { remedy });
}

function tooLarge(what: string): OciError {
  return new OciError('image_too_large', `the image is too large: ${what}`, { remedy: 'Use a smaller image.' });
}
