/** Describes the content at a path, for comparison. */
export type Content =
  | {
      readonly type: 'file';
      readonly mode: number;
      readonly bytes: number;
      /** Hexadecimal. */
      readonly sha256: string;
    }
  | { readonly type: 'directory'; readonly mode: number }
  | { readonly type: 'symlink'; readonly target: string };

/** True if both are equal; the mode of a directory is ignored. */
export function isSame(one: Content | null, other: Content | null): boolean {
  if (one === null || other === null) return one === other;
  if (one.type === 'file' && other.type === 'file') {
    return one.sha256 === other.sha256 && one.mode === other.mode;
  }
  if (one.type === 'symlink' && other.type === 'symlink') return one.target === other.target;
  return one.type === other.type;
}
