/** Extended attributes of files (xattr(7)). */
import { libc } from './libc.ts';

const lgetxattr = libc.func('long lgetxattr(const char *path, const char *name, _Out_ uint8_t *value, size_t size)');

/**
 * @param bytesMax a longer value counts as missing. @returns `null` if the file has no such attribute, or it may not be
 * read
 */
export function readAttribute(path: string, name: string, bytesMax: number): string | null {
  const value = Buffer.alloc(bytesMax);
  const bytes = lgetxattr(path, name, value, bytesMax) as number;
  return bytes < 0 ? null : value.toString('utf8', 0, bytes);
}
