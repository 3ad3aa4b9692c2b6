/** What the protocols have in common (types only). */
import type { Ecosystem } from '../../base/package-policy.ts';
import type { Digest } from '../policy.ts';

/** A file that an index names. */
export interface Artifact {
  readonly name: string;
  /** For people and logs; empty: unknown. */
  readonly version: string;
  /** As clients write it. */
  readonly filename: string;
  readonly url: string;
  /** Strongest first. */
  readonly digests: readonly [Digest, ...Digest[]];
  /** Milliseconds since 1970; null: the index does not say. */
  readonly publishedMs: number | null;
  /** Null: the index does not say. */
  readonly sizeBytes: number | null;
}

/** The page of one name, parsed. It shows every file, whatever a sandbox's policy. */
export interface Catalog {
  readonly name: string;
  /** Finds a file by the part of the route that identifies it. */
  find(key: string): Artifact | undefined;
  /** The page for a client, with only the files that `permits`. */
  render(permits: (file: Artifact) => boolean, accept: string, base: string): RenderedPage;
}

export interface RenderedPage {
  readonly contentType: string;
  readonly body: string;
}

/** A page as it came from the index. */
export interface RawPage {
  readonly url: string;
  readonly contentType: string;
  readonly body: Buffer;
}

export type Route =
  /** The page of a name: parsed, filtered and written anew. */
  | { readonly kind: 'catalog'; readonly ecosystem: Ecosystem; readonly name: string }
  /** A file of a page. */
  | {
      readonly kind: 'artifact';
      readonly ecosystem: Ecosystem;
      readonly name: string;
      readonly key: string;
    };
