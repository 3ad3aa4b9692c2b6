/** The two ends of `cp`: a path here, `ID:PATH` in a sandbox, or `-`. */
import { UsageError } from '../failure.ts';

export type Location =
  | { readonly kind: 'here'; readonly path: string }
  | { readonly kind: 'guest'; readonly id: string; readonly path: string }
  | { readonly kind: 'stream' };

/**
 * A colon makes it a path in a guest, unless a slash or a dot precedes it: `./a:b` is a file here. An empty path
 * is the home of the guest's user.
 */
export function parseLocation(text: string): Location {
  if (text === '-') return { kind: 'stream' };
  const match = /^([a-z0-9]{1,20}):(.*)$/s.exec(text);
  if (match?.[1] !== undefined) {
    return { kind: 'guest', id: match[1], path: match[2] || '~' };
  }
  if (text === '') throw new UsageError('empty path', 'use PATH, ID:PATH or -');
  return { kind: 'here', path: text };
}
