/** Headers of GGUF files: a typed error, a wish for more bytes, or facts within bounds. */

import { OciError } from '../../src/artifacts/oci/errors.ts';
import { parseModelManifest } from '../../src/artifacts/oci/model-manifest.ts';
import { DIGEST } from '../../src/artifacts/oci/reference.ts';
import { EngineError } from '../../src/inference/engine/errors.ts';
import { parseGguf, Truncated } from '../../src/inference/engine/gguf.ts';
import { dockerModel, makeGguf, makeParts, ollamaModel, orasFiles } from '../support/gguf-models.ts';
import type { TestImage } from '../support/oci-images.ts';
import { must, target } from './target.ts';

export const gguf = target(
  'gguf',
  (bytes) => {
    try {
      const found = parseGguf(bytes, bytes.length);
      const { architecture, parameters, split, quantization, contextTokens } = found;
      must(architecture === null || /^[\w.+-]{1,64}$/.test(architecture), 'an architecture');
      must(Number.isSafeInteger(parameters) && parameters >= 0, 'the number of parameters');
      must(contextTokens === null || Number.isSafeInteger(contextTokens), 'the context');
      must(quantization === null || /^\w{2,10}$/.test(quantization), 'a quantization');
      must(split === null || split.index < split.count, 'a part');
    } catch (error) {
      if (!(error instanceof EngineError) && !(error instanceof Truncated)) throw error;
    }
  },
  { seeds: [makeGguf({ numbers: 4 }), ...makeParts(2)] },
);

const documentOf = ({ blobs, manifestDigest }: TestImage): Buffer => blobs.get(manifestDigest) ?? Buffer.alloc(0);

export const modelManifests = target(
  'model-manifests',
  (bytes) => {
    try {
      const found = parseModelManifest(bytes);
      if ('digest' in found) return must(DIGEST.test(found.digest), 'a digest');
      const { files, blobs } = found.manifest;
      must(files.length > 0, 'the number of files');
      for (const one of [...files, ...blobs]) {
        must(DIGEST.test(one.digest) && Number.isSafeInteger(one.bytes), 'a blob');
      }
      must(!files.some(({ name }) => name?.includes('/')), 'a directory in a name');
    } catch (error) {
      if (!(error instanceof OciError)) throw error;
    }
  },
  {
    seeds: [
      documentOf(dockerModel(makeParts(2))),
      documentOf(ollamaModel(Buffer.from('x'))),
      documentOf(orasFiles({ 'a/b.gguf': Buffer.from('x') })),
    ],
  },
);
