/**
 * Compiled files in the repository. A manifest beside them records their sources and tools, so that a change of the
 * sources is noticed and anybody can rebuild and compare.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { ifThere } from '../errors.ts';

export const PREBUILT_DIR = 'prebuilt';
export const PREBUILT_MANIFEST = 'manifest.json';

const SHA256 = z.string().regex(/^[0-9a-f]{64}$/);

export const prebuiltSchema = z.object({
  /** Digest of sources and options. */
  inputs: SHA256,
  /** The exact version of each tool, by name. */
  tools: z.record(z.string(), z.string()),
  /** Before compression. */
  files: z.record(z.string(), z.object({ sha256: SHA256, sizeBytes: z.number().int().min(1) })),
});
export type PrebuiltManifest = z.infer<typeof prebuiltSchema>;

/**
 * @returns undefined if this checkout has no such files
 * @throws SyntaxError, ZodError if the manifest is damaged
 */
export async function readPrebuilt<Manifest>(dir: string, schema: z.ZodType<Manifest>): Promise<Manifest | undefined> {
  const text = await ifThere(readFile(join(dir, PREBUILT_MANIFEST), 'utf8'));
  return text === undefined ? undefined : schema.parse(JSON.parse(text));
}
