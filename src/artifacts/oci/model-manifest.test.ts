import { describe, expect, it } from 'vitest';
import {
  dockerModel,
  makeArtifact,
  makeGguf,
  makeParts,
  modelPack,
  ollamaModel,
  orasFiles,
} from '../../../test/support/gguf-models.ts';
import { digest, type TestImage } from '../../../test/support/oci-images.ts';
import { parseModelManifest } from './model-manifest.ts';

const documentOf = ({ blobs, manifestDigest }: TestImage): Buffer => blobs.get(manifestDigest) ?? Buffer.alloc(0);
const filesOf = (image: TestImage) => {
  const found = parseModelManifest(documentOf(image));
  return 'manifest' in found ? found.manifest.files.map(({ name, bytes }) => [name, bytes]) : [];
};
const gguf = makeGguf();
const hex = (digit: string): string => `sha256:${digit.repeat(64)}`;
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const layer = (mediaType: string, annotations?: Record<string, string>) =>
  makeArtifact([{ mediaType, bytes: gguf, ...(annotations === undefined ? {} : { annotations }) }]);

describe('parseModelManifest', () => {
  it('finds the GGUF files of each layout', () => {
    const size = gguf.length;
    expect(filesOf(dockerModel([gguf]))).toEqual([[null, size]]);
    expect(filesOf(dockerModel(makeParts(3)))).toHaveLength(3);
    expect(filesOf(modelPack('a/b.gguf', gguf))).toEqual([['b.gguf', size]]);
    expect(filesOf(ollamaModel(gguf))).toEqual([[null, size]]);
    expect(filesOf(orasFiles({ 'x.gguf': gguf, LICENSE: Buffer.from('MIT') }))).toEqual([['x.gguf', size]]);
  });

  it('removes directories from a registry’s file name', () => {
    for (const name of ['../../x.gguf', '/etc/x.gguf', '..//x.gguf'])
      expect(filesOf(modelPack(name, gguf))).toEqual([['x.gguf', gguf.length]]);
  });

  it('follows an index to its only model, past attestations', () => {
    const signature = { 'vnd.docker.reference.type': 'attestation-manifest' };
    const entry = (digit: string, annotations?: object) => ({
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      digest: hex(digit),
      size: 5,
      annotations,
    });
    const index = (...manifests: object[]) => json({ schemaVersion: 2, manifests });
    expect(parseModelManifest(index(entry('1'), entry('2', signature)))).toEqual({ digest: hex('1') });
    expect(() => parseModelManifest(index(entry('1'), entry('2')))).toThrow(
      expect.objectContaining({ code: 'image_unsupported', remedy: expect.stringContaining(hex('2')) }),
    );
    expect(() => parseModelManifest(index())).toThrow('its index is empty');
  });

  it.each<[string, Buffer, string]>([
    ['a container image', documentOf(layer('application/vnd.oci.image.layer.v1.tar+gzip')), 'unsupported'],
    [
      'weights in an archive',
      documentOf(layer('application/vnd.cncf.model.weight.v1.tar', { 'org.cncf.model.filepath': 'x.gguf' })),
      'unsupported',
    ],
    ['other formats', documentOf(layer('application/vnd.docker.ai.safetensors')), 'unsupported'],
    [
      'a file that is only named like one',
      documentOf(layer('application/octet-stream', { 'org.opencontainers.image.title': 'x.gguf.txt' })),
      'unsupported',
    ],
    [
      'an adapter',
      documentOf(
        makeArtifact([
          { mediaType: 'application/vnd.ollama.image.model', bytes: gguf },
          { mediaType: 'application/vnd.ollama.image.adapter', bytes: Buffer.from('x') },
        ]),
      ),
      'unsupported',
    ],
    ['the same file twice', documentOf(dockerModel([gguf, gguf])), 'invalid'],
    ['no JSON', Buffer.from('{'), 'invalid'],
    ['a list', json([]), 'invalid'],
    [
      'a digest that is a path',
      json({ schemaVersion: 2, config: { mediaType: 'x', digest: 'sha256:../../x', size: 1 }, layers: [] }),
      'invalid',
    ],
    [
      'a negative size',
      json({ schemaVersion: 2, config: { mediaType: 'x', digest: hex('1'), size: -1 }, layers: [] }),
      'invalid',
    ],
    [
      'two sizes of one blob',
      json({
        schemaVersion: 2,
        config: { mediaType: 'x', digest: hex('1'), size: 1 },
        layers: [{ mediaType: 'y', digest: hex('1'), size: 2 }],
      }),
      'invalid',
    ],
    [
      'a large configuration',
      json({ schemaVersion: 2, config: { mediaType: 'x', digest: hex('1'), size: 1e9 }, layers: [] }),
      'too_large',
    ],
    ['a large document', Buffer.alloc(5 * 1024 * 1024, ' '), 'too_large'],
  ])('refuses %s', (_what, document, code) => {
    expect(() => parseModelManifest(document)).toThrow(expect.objectContaining({ code: `image_${code}` }));
  });

  it('counts each blob once', () => {
    const found = parseModelManifest(documentOf(dockerModel([gguf])));
    const digests = 'manifest' in found ? found.manifest.blobs.map((one) => one.digest) : [];
    expect(digests).toContain(digest(gguf));
    expect(new Set(digests).size).toBe(digests.length);
  });
});
