/** Images in the catalog: how they are made, found and named. */
import { systemClock } from '../../base/clock.ts';
import type { StoredImage } from './catalog.ts';
import { digestOf, type ImageConfig, LAYERS_MAX, platformText } from './documents.ts';
import type { Fetched } from './fetch.ts';
import { hexOf } from './files.ts';
import type { Reference } from './reference.ts';

/** An image as a disk for a VM, with what it says about its programs. */
export interface Environment extends Pick<ImageConfig, 'user' | 'env' | 'workdir' | 'entrypoint' | 'cmd'> {
  /** Path of a read-only EROFS image, of which every byte comes from a VM that saw hostile layers. */
  readonly image: string;
  /** `sha256:…` of that file. */
  readonly digest: string;
}

/**
 * The name of an unpacked layer. It depends on the fetched bytes, not only on the content that a manifest claims: bytes
 * that take over the VM that unpacks them can give themselves any content, but not to what was made of other bytes.
 */
export function layerKey({ digest, diffId }: StoredImage['layers'][number]): string {
  return digestOf(Buffer.from(`${digest} ${diffId}`));
}

/** The name of its environment, which depends on the bytes of all layers. */
export function environmentKey({ layers, built }: StoredImage): string {
  return built ?? digestOf(Buffer.from(layers.map(layerKey).join(' ')));
}

/** Hexadecimal names of all files of an image. */
export function filesOf(image: StoredImage): string[] {
  const { layers } = image;
  return [environmentKey(image), ...layers.flatMap((layer) => [layer.digest, layerKey(layer)])].map(hexOf);
}

export function toStored({ digest, manifest, config }: Fetched): StoredImage {
  return {
    digest,
    names: [],
    platform: platformText(config.platform),
    pulledAtMs: systemClock.wall(),
    configDigest: manifest.config.digest,
    layers: manifest.layers
      .slice(0, LAYERS_MAX)
      .map((layer, index) => ({
        digest: layer.digest,
        bytes: layer.bytes,
        compression: layer.compression,
        diffId: config.diffIds[index] ?? '',
      })),
    config: toPlain(config.config),
  };
}

/** The catalog's type has no read-only arrays. */
export function toPlain(config: ImageConfig): StoredImage['config'] {
  const { healthcheck } = config;
  return {
    ...config,
    env: { ...config.env },
    entrypoint: [...config.entrypoint],
    cmd: [...config.cmd],
    exposedPorts: [...config.exposedPorts],
    labels: { ...config.labels },
    healthcheck: healthcheck && { ...healthcheck, command: [...healthcheck.command] },
  };
}

export function toEnvironment({ config }: StoredImage, image: string, digest: string): Environment {
  const { user, env, workdir, entrypoint, cmd } = config;
  return { image, digest, user, env, workdir, entrypoint, cmd };
}

export function findByName(images: readonly StoredImage[], { text, digest }: Reference): StoredImage | undefined {
  return images.find((one) => one.names.includes(text) || one.digest === digest);
}

const HEX_PREFIX = /^(?:sha256:)?([0-9a-f]{6,64})$/;

export function findByHex(images: readonly StoredImage[], text: string): StoredImage | undefined {
  const [, hex] = HEX_PREFIX.exec(text) ?? [];
  if (hex === undefined) return undefined;
  const found = images.filter(({ digest }) => digest.startsWith(`sha256:${hex}`));
  return found.length === 1 ? found[0] : undefined;
}
