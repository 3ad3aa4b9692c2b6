/** What a stage begins with. */
import type { ImageConfig } from '../oci/documents.ts';

/** A read-only disk below a stage. */
export interface BaseDisk {
  /** `system`: the default environment's disk. */
  readonly kind: 'none' | 'system' | 'file';
  /** Path of an EROFS image; `''` unless `file`. */
  readonly path: string;
  /** `sha256:…`; null: none. */
  readonly digest: string | null;
  /** One of our environments: programs run as `user` unless a Dockerfile says otherwise, its steps as root. */
  readonly hasUser?: true;
}

export interface Base {
  readonly disk: BaseDisk;
  readonly config: ImageConfig;
}
