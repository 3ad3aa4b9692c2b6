/**
 * Another kernel to compare the guest's with: Firecracker's CI configuration, built by `node
 * tools/reference-kernel.ts`.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { resolveHome } from '../../src/base/home.ts';

export const REFERENCE_NAME = 'the kernel of Firecracker’s CI';
export const REFERENCE_CHOICE =
  'against the kernel of Firecracker’s CI, once `node tools/reference-kernel.ts` has built it';
/** Below the cache. */
export const REFERENCE_DIR = 'reference-kernel';
export const REFERENCE_FILE = 'vmlinux';

/** Path of the reference kernel; `null` if it has not been built. */
export function referenceKernel(home: string): string | null {
  const path = join(resolveHome(home).cacheDir, REFERENCE_DIR, REFERENCE_FILE);
  return existsSync(path) ? path : null;
}
