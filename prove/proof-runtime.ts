import type { Config } from '../src/base/config.ts';
import type { Log } from '../src/base/log.ts';
import { silentProgress } from '../src/base/progress.ts';
import { Runtime } from '../src/host/runtime/runtime.ts';
import type { Guest } from '../src/machine/guest/guest.ts';

export interface JailContext {
  readonly config: Config;
  readonly log: Log;
  /**
   * The function by which `cp` copies a file or directory of a guest into a directory of this machine, for the proof
   * `files`.
   */
  readonly copyOut?: (guest: Guest, source: string, target: string) => Promise<void>;
  /** Duration of the proof `load`, milliseconds. */
  readonly loadMs?: number;
  /** Number of guests that the proof `image` attacks with. Default 1. */
  readonly guests?: number;
  readonly signal?: AbortSignal;
  /** For tests: the VMMs' filter only logs. */
  readonly onlyLogs?: boolean;
}

/** Opens the runtime for a proof's sandboxes, without a model of its own. @param more configuration */
export function openProofRuntime(
  { config, log }: Pick<JailContext, 'config' | 'log'>,
  more: Partial<JailContext['config']> = {},
): Promise<Runtime> {
  return Runtime.open({
    config: { ...config, upstream: 'engine', ...more },
    progress: silentProgress,
    signal: new AbortController().signal,
    log,
    withoutModel: true,
  });
}
