/** The base of a stage. */
import type { ImageConfig } from '../oci/documents.ts';

export interface BaseDisk {
  /** `system`: the default environment's disk. */
  readonly kind: 'none' | 'system' | 'file';
  /** Path of an EROFS image; `''` unless `kind` is `file`. */
  readonly path: string;
  /** `sha256:…`, if known. */
  readonly digest: string | null;
  /** Set for our own environments: programs run as `user` unless a Dockerfile says otherwise, its steps as root. */
  readonly hasUser?: true;
}

export interface Base {
  readonly disk: BaseDisk;
  readonly config: ImageConfig;
}
