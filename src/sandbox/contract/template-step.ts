/** A step of a template that an E2B client builds. `e2b` defines how it is sent, `dockerfile` how it runs. */

/** A tar archive as a client sent it, possibly gzip-compressed. */
export interface StepArchive {
  readonly path: string;
  readonly sha256: string;
}

/** @template Archive what is known of the archive that a COPY reads */
export type TemplateStep<Archive = StepArchive> = {
  /** If true, neither this step nor any later one is taken from an earlier build. */
  readonly isFresh: boolean;
} & (
  | { readonly kind: 'run'; readonly command: string; readonly user: string | null }
  | {
      readonly kind: 'copy';
      readonly archive: Archive;
      /** Path in the archive. Ignored from the first wildcard on: the archive has only files that match. */
      readonly source: string;
      readonly target: string;
      readonly owner: string | null;
      /** Octal. */
      readonly mode: string | null;
    }
  | { readonly kind: 'env'; readonly pairs: readonly (readonly [string, string])[] }
  | { readonly kind: 'workdir'; readonly path: string }
  | { readonly kind: 'user'; readonly user: string; readonly isSudoer: boolean }
);
