/** The two ends of `cp`: a path here, `ID:PATH` or `NAME:PATH` in a sandbox, or `-`. */
import { UsageError } from '../failure.ts';

export type Location =
  | { readonly kind: 'here'; readonly path: string }
  | { readonly kind: 'guest'; readonly id: string; readonly path: string }
  | { readonly kind: 'stream' };

/**
 * A colon after what may be an ID or a name makes it a path in a guest: `./a:b` is a file here. An empty path is the home
 * of the guest's user.
 */
export function parseLocation(text: string): Location {
  if (text === '-') return { kind: 'stream' };
  const match = /^([a-z0-9]|[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}):(.*)$/s.exec(text);
  if (match?.[1] !== undefined) {
    return { kind: 'guest', id: match[1], path: match[2] || '~' };
  }
  if (text === '') throw new UsageError('empty path', 'use PATH, ID:PATH or -');
  return { kind: 'here', path: text };
}
