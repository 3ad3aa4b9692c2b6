/**
 * Progress of long work, for people. Producers (image builds, downloads) call a `Progress`
 * function; the CLI draws it. Producers never print.
 */
export type ProgressEvent =
  | {
      readonly kind: 'start';
      /** Stable name of the step, e.g. `kernel`. */
      readonly step: string;
      /** For people, e.g. `Build the guest kernel`. */
      readonly title: string;
      /** Expected duration on a machine with 2 cores, milliseconds. */
      readonly estimateMs: number;
      /** Steps that start before its end are parts of it. */
      readonly isWhole?: boolean;
    }
  | {
      readonly kind: 'update';
      readonly step: string;
      /** 0 … 1, if known. */
      readonly fraction?: number;
      /** One short line, e.g. `CC kernel/fork.o` or `12 / 253 MB`. */
      readonly detail?: string;
    }
  | {
      readonly kind: 'done';
      readonly step: string;
      /** True if a valid result already existed. */
      readonly cached: boolean;
      readonly durationMs: number;
    }
  | { readonly kind: 'failed'; readonly step: string; readonly message: string };

export type Progress = (event: ProgressEvent) => void;

export const silentProgress: Progress = () => undefined;
