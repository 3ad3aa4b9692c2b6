/** What the protocols have in common (types only). */
import type { Ecosystem } from '../../../base/request/package-policy.ts';
import type { AptArchive } from '../apt-archives.ts';
import type { Digest } from '../policy.ts';

/** A file that an index names. */
export interface Artifact {
  readonly name: string;
  /** For people and logs; empty: unknown. */
  readonly version: string;
  /** As clients write it. */
  readonly filename: string;
  readonly url: string;
  /** The first one is checked; a lock may name any. Empty: none is known beforehand, and the client checks the file. */
  readonly digests: readonly Digest[];
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
  /**
   * The page for a client, with only the files that `permits`.
   * @param origin of the gateway, as the client reached it
   */
  render(permits: (file: Artifact) => boolean, accept: string, origin: string): RenderedPage;
}

export interface RenderedPage {
  readonly contentType: string;
  readonly body: string | Buffer;
}

/** A page as it came from the index. */
export interface RawPage {
  readonly url: string;
  readonly contentType: string;
  readonly body: Buffer;
}

/** Which of the host's indexes: several for apt, and the checksum database of Go. */
export type IndexName = 'pip' | 'npm' | 'cargo' | 'go' | 'sumdb' | AptArchive;

interface Named {
  readonly ecosystem: Ecosystem;
  /** What the policy judges. */
  readonly name: string;
  readonly index: IndexName;
}

/** The page of a name: parsed, filtered and written anew. */
export interface CatalogRoute extends Named {
  readonly kind: 'catalog';
}

/** A file of a page. */
export interface ArtifactRoute extends Named {
  readonly kind: 'artifact';
  readonly key: string;
}

/** Passed on as it is: its client checks it by signatures that the gateway does not know. */
export interface RelayRoute extends Named {
  readonly kind: 'relay';
  /** Below the base of the index. */
  readonly path: string;
  readonly contentType: string;
  /** True: it never changes, so it is kept. */
  readonly isImmutable: boolean;
  readonly digest: Digest | null;
  /** Empty: not a file of a version. */
  readonly version: string;
  /** Path of a description with the time of the version (Go); null: there is none. */
  readonly infoPath: string | null;
}

/** The gateway's own answer. */
export interface StaticRoute extends Named {
  readonly kind: 'static';
  page(origin: string): RenderedPage;
}

export type Route = CatalogRoute | ArtifactRoute | RelayRoute | StaticRoute;
