/** A step of a template that E2B's clients build: how they send it is `e2b`'s business, how it runs `dockerfile`'s. */

/** A tar archive, perhaps compressed by gzip, as a client sent it. */
export interface StepArchive {
  readonly path: string;
  readonly sha256: string;
}

/** @template Archive what is known of the archive that a COPY reads */
export type TemplateStep<Archive = StepArchive> = {
  /** True: neither this step nor a later one of an earlier build is used. */
  readonly isFresh: boolean;
} & (
  | { readonly kind: 'run'; readonly command: string; readonly user: string | null }
  | {
      readonly kind: 'copy';
      readonly archive: Archive;
      /** Path in the archive. From the first wildcard on it is ignored: the archive has only files that match. */
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
