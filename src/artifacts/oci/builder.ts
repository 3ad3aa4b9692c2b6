/**
 * The interface of the VM that builds EROFS images of layers: its jobs and its answers. The composition root provides
 * the VM.
 */
import { z } from 'zod';
import type { Compression } from './documents.ts';
import { OciError } from './errors.ts';

export interface LayerJob {
  readonly blobPath: string;
  readonly blobBytes: number;
  readonly compression: Compression;
  /** `sha256:…` that the unpacked archive must have. */
  readonly diffId: string;
  readonly unpackedBytesMax: number;
}

export interface MergeJob {
  /** Images of layers, bottom first. */
  readonly layers: readonly { readonly path: string; readonly bytes: number }[];
}

export const UNFINISHED = '.unfinished';

/** Both methods write a new file, or leave none. @throws OciError */
export interface ImageBuilder {
  layer(job: LayerJob, outPath: string, signal: AbortSignal): Promise<void>;
  merge(job: MergeJob, outPath: string, signal: AbortSignal): Promise<void>;
}

/** Longest answer, a line of JSON. */
export const VERDICT_BYTES_MAX = 16_384;
const DETAIL_CHARACTERS_MAX = 1_000;
export const BLOCK_BYTES = 4_096;

const verdictSchema = z.union([
  z.object({ bytes: z.number().int().min(BLOCK_BYTES).multipleOf(BLOCK_BYTES) }),
  z.object({ code: z.enum(['too_large', 'digest', 'invalid', 'disk']), detail: z.string() }),
]);

const FAILURES = {
  too_large: ['image_too_large', 'is too large', 'Use a smaller image.'],
  digest: ['image_invalid', 'does not have its digest', 'Pull the image again.'],
  invalid: ['image_invalid', "can't be unpacked", 'Ask the image’s publisher.'],
  // The host could not read or write a disk.
  disk: ['disk_full', 'could not be written', 'Free disk space, and try again.'],
} as const;

/**
 * Reads the line that the VM printed; it may be compromised.
 * @param bytesMax size of the disk with the result
 * @returns the length of the result in bytes
 * @throws OciError
 */
export function readVerdict(line: string, what: string, bytesMax: number): number {
  const verdict = parseVerdict(line);
  if (verdict === null || ('bytes' in verdict && verdict.bytes > bytesMax)) {
    throw new OciError('build_failed', `the VM gave no valid result for ${what}`, {
      cause: line.trim() === '' ? 'it printed nothing' : 'its answer is not valid',
      remedy: 'Try again; if it fails again, the image may attack the VM: do not use it.',
    });
  }
  if ('bytes' in verdict) return verdict.bytes;
  const [code, fault, remedy] = FAILURES[verdict.code];
  const cause = verdict.detail.slice(0, DETAIL_CHARACTERS_MAX);
  throw new OciError(code, `${what} ${fault}`, { cause, remedy });
}

function parseVerdict(line: string): z.infer<typeof verdictSchema> | null {
  if (line.length > VERDICT_BYTES_MAX) return null;
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch {
    return null;
  }
  const result = verdictSchema.safeParse(json);
  return result.success ? result.data : null;
}
