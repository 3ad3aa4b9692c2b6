/**
 * Progress of long work. Producers (image builds, downloads) call a `Progress` function; the CLI draws it. Producers
 * never print.
 */
import { systemClock } from './clock.ts';
import { describeError } from './errors.ts';

export type ProgressEvent =
  | {
      readonly kind: 'start';
      /** Stable name of the step, for example `kernel`. */
      readonly step: string;
      /** Display text, for example `Build the guest kernel`. Steps of equal titles are the same work. */
      readonly title: string;
    }
  | {
      readonly kind: 'update';
      readonly step: string;
      /** 0 … 1, of work that is counted. */
      readonly fraction?: number;
      /** One short line, for example `CC kernel/fork.o` or `12 / 253 MB`. */
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

/** Progress of one step, for work whose bytes are counted. */
export class ProgressStep {
  readonly #progress: Progress;
  readonly #step: string;
  readonly #startedAtMs = systemClock.now();

  constructor(progress: Progress, step: string, title: string) {
    this.#progress = progress;
    this.#step = step;
    progress({ kind: 'start', step, title });
  }

  bytes(bytes: number, total: number): void {
    const mb = (n: number): number => Math.round(n / 1e6);
    this.fraction(total === 0 ? 1 : bytes / total, `${mb(bytes)} / ${mb(total)} MB`);
  }

  fraction(fraction: number, detail: string): void {
    this.#progress({ kind: 'update', step: this.#step, fraction, detail });
  }

  done(cached: boolean): void {
    const durationMs = systemClock.now() - this.#startedAtMs;
    this.#progress({ kind: 'done', step: this.#step, cached, durationMs });
  }

  failed(error: unknown): void {
    this.#progress({ kind: 'failed', step: this.#step, message: describeError(error) });
  }
}
