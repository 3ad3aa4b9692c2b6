/** What the VM that builds images says: a length that its disk has, or a typed error. */
import { BLOCK_BYTES, readVerdict } from '../../src/artifacts/oci/builder.ts';
import { OciError } from '../../src/artifacts/oci/errors.ts';
import { must, target } from './target.ts';

const DISK_BYTES = 1 << 20;

export const imageVerdicts = target(
  'image-verdicts',
  (bytes) => {
    try {
      const length = readVerdict(bytes.toString('utf8'), 'the layer x', DISK_BYTES);
      must(length >= BLOCK_BYTES && length <= DISK_BYTES && length % BLOCK_BYTES === 0, `${length}`);
    } catch (error) {
      must(error instanceof OciError, `it throws ${error}`);
      must(`${error.cause}`.length <= 2_000, 'a long cause');
    }
  },
  { seeds: ['{"bytes": 8192}', '{"code": "too_large", "detail": "x"}', '{"code": "invalid", "detail": ""}'] },
);
