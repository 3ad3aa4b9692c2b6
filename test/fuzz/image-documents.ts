/** Documents of an image: a typed error, or what is within the limits and reads the same again. */
import { choosePlatform, LAYERS_MAX, parseConfig, parseDocument } from '../../src/artifacts/oci/documents.ts';
import { OciError } from '../../src/artifacts/oci/errors.ts';
import { DIGEST } from '../../src/artifacts/oci/reference.ts';
import { must, target } from './target.ts';

const hex = (digit: string): string => `sha256:${digit.repeat(64)}`;
const TYPE = 'application/vnd.oci.image';
const blob = (mediaType: string) => ({ mediaType: `${TYPE}.${mediaType}`, digest: hex('1'), size: 7 });
const platform = { os: 'linux', architecture: 'amd64' };

export const imageDocuments = target(
  'image-documents',
  (bytes) => {
    const document = tryParse(() => parseDocument(bytes));
    if (document !== undefined && 'manifest' in document) {
      const { layers, config } = document.manifest;
      must(layers.length >= 1 && layers.length <= LAYERS_MAX, 'the number of layers');
      for (const one of [config, ...layers]) {
        must(DIGEST.test(one.digest), 'a digest');
        must(Number.isSafeInteger(one.bytes) && one.bytes >= 0, 'a size');
      }
    }
    if (document !== undefined && 'index' in document) {
      const { index } = document;
      const chosen = tryParse(() => choosePlatform(index, 'amd64'));
      must(chosen === undefined || DIGEST.test(chosen.digest), 'the chosen digest');
    }
    const parsed = tryParse(() => parseConfig(bytes));
    if (parsed === undefined) return;
    const { config, diffIds } = parsed;
    must(diffIds.length <= LAYERS_MAX && diffIds.every((one) => DIGEST.test(one)), 'the digests');
    must(config.workdir.startsWith('/'), 'a relative directory');
    const texts = [config.user, config.workdir, ...config.entrypoint, ...config.cmd];
    const variables = Object.entries(config.env);
    must(![...texts, ...variables.flat()].some((text) => text.includes('\0')), 'a NUL');
    must(
      variables.every(([name]) => name !== '' && !name.includes('=')),
      'a variable',
    );
  },
  {
    seeds: [
      JSON.stringify({ schemaVersion: 2, config: blob('config.v1+json'), layers: [blob('layer.v1.tar+gzip')] }),
      JSON.stringify({ schemaVersion: 2, manifests: [{ ...blob('manifest.v1+json'), platform }] }),
      JSON.stringify({
        ...platform,
        rootfs: { type: 'layers', diff_ids: [hex('2')] },
        config: {
          User: 'a',
          Env: ['A=b'],
          WorkingDir: '/x',
          Cmd: ['y'],
          ExposedPorts: { '80/tcp': {} },
          Healthcheck: { Test: ['CMD', 'x'], Interval: 1e9 },
        },
      }),
    ],
  },
);

/** Undefined: refused. */
function tryParse<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (error instanceof OciError) return undefined;
    throw error;
  }
}
