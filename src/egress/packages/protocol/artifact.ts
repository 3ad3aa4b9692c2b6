/** Types that the protocols have in common. */
import type { Ecosystem } from '../../../base/request/package-policy.ts';
import type { AptArchive } from '../apt-archives.ts';
import type { Digest } from '../policy.ts';

export interface Artifact {
  readonly name: string;
  /** For people and logs; empty if unknown. */
  readonly version: string;
  /** As clients write it. */
  readonly filename: string;
  readonly url: string;
  /**
   * The first one is checked; a lock may name any. Empty if none is known beforehand, so that the client checks the
   * file.
   */
  readonly digests: readonly Digest[];
  /** Milliseconds since 1970; `null` if unknown. */
  readonly publishedMs: number | null;
  /** `null` if unknown. */
  readonly sizeBytes: number | null;
}

/** The parsed page of one name. Contains every file, whatever a sandbox's policy. */
export interface Catalog {
  readonly name: string;
  /** Finds a file by the part of the route that identifies it. */
  find(key: string): Artifact | undefined;
  /**
   * The page for a client, with only the files that `permits` accepts.
   * @param origin of the gateway, as the client reached it
   */
  render(permits: (file: Artifact) => boolean, accept: string, origin: string): RenderedPage;
}

export interface RenderedPage {
  readonly contentType: string;
  readonly body: string | Buffer;
}

export interface RawPage {
  readonly url: string;
  readonly contentType: string;
  readonly body: Buffer;
}

/** One of the host's indexes: several for apt, and the checksum database of Go. */
export type IndexName = 'pip' | 'npm' | 'cargo' | 'go' | 'sumdb' | AptArchive;

interface Named {
  readonly ecosystem: Ecosystem;
  readonly name: string;
  readonly index: IndexName;
}

/** The page of a name: parsed, filtered and written anew. */
export interface CatalogRoute extends Named {
  readonly kind: 'catalog';
}

export interface ArtifactRoute extends Named {
  readonly kind: 'artifact';
  readonly key: string;
}

/** Passed on unchanged: its client checks it by signatures that the gateway does not know. */
export interface RelayRoute extends Named {
  readonly kind: 'relay';
  /** Below the base of the index. */
  readonly path: string;
  readonly contentType: string;
  /** True if it never changes, so that it is kept. */
  readonly isImmutable: boolean;
  readonly digest: Digest | null;
  /** Empty if it is not a file of a version. */
  readonly version: string;
  /** Path of a description with the time of the version (Go); `null` if there is none. */
  readonly infoPath: string | null;
}

export interface StaticRoute extends Named {
  readonly kind: 'static';
  page(origin: string): RenderedPage;
}

export type Route = CatalogRoute | ArtifactRoute | RelayRoute | StaticRoute;
