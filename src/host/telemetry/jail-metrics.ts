/** Metrics of the jail, over all VMMs: sandbox ids are never labels. */
import { Counter, gauge, gaugeBy, type Metric } from '../../base/metrics.ts';
import { JailError, type JailErrorCode } from '../../machine/jail/errors.ts';
import { JAIL_STATES, type JailState } from '../../machine/jail/state.ts';
import { groupMemoryOf } from '../../machine/observe/cgroup-memory.ts';
import type { VmmDriver } from '../../machine/vmm/driver.ts';
import { memoryGroup } from '../probes/vmm-memory.ts';

/** Longest chain of causes that is searched. */
const CAUSES_MAX = 10;
/** Codes that a start may fail with. */
const CODES: readonly JailErrorCode[] = ['jail_failed', 'jail_plan_invalid', 'jail_dir_unsafe', 'jail_unavailable'];
const KINDS = ['currentBytes', 'peakBytes', 'limitBytes'] as const;

export class JailMetrics {
  readonly #state: JailState;
  readonly #pids: () => readonly number[];
  readonly #failures = new Counter(
    'neurovisor_jail_start_failures_total',
    'VMs that failed to start because of the jail.',
    ['code'],
  );

  /** @param pids of running VMMs */
  constructor(state: JailState, pids: () => readonly number[]) {
    this.#state = state;
    this.#pids = pids;
    for (const code of CODES) this.#failures.add({ code }, 0);
  }

  watchStarts(driver: VmmDriver): VmmDriver {
    return {
      ...driver,
      start: async (spec, signal) => {
        try {
          return await driver.start(spec, signal);
        } catch (error) {
          const code = jailCode(error);
          if (code !== undefined) this.#failures.add({ code });
          throw error;
        }
      },
    };
  }

  list(): readonly Metric[] {
    return [
      gaugeBy('neurovisor_jailed_vmms', 'Running VMMs, by jail: enforced, log, off.', ['mode'], () =>
        JAIL_STATES.map((mode) => [{ mode }, mode === this.#state ? this.#pids().length : 0]),
      ),
      this.#failures,
      gaugeBy(
        'neurovisor_vmm_group_memory_bytes',
        'Memory in control groups of VMMs: current, peak, limit; over all: sum, max.',
        ['kind', 'over'],
        () => {
          const groups = this.#groups();
          return KINDS.flatMap((key) => {
            const all = groups.map((group) => group[key]);
            const kind = key.slice(0, -'Bytes'.length);
            return [
              [{ kind, over: 'sum' }, all.reduce((sum, bytes) => sum + bytes, 0)] as const,
              [{ kind, over: 'max' }, Math.max(0, ...all)] as const,
            ];
          });
        },
      ),
      gauge('neurovisor_vmm_group_memory_ratio', 'Highest share of a VMM’s memory limit in use, with page cache.', () =>
        Math.max(
          0,
          ...this.#groups().map(({ currentBytes, limitBytes }) => (limitBytes === 0 ? 0 : currentBytes / limitBytes)),
        ),
      ),
    ];
  }

  /** The groups that belong to one VMM alone. */
  #groups() {
    const own = memoryGroup('self');
    return this.#pids().flatMap((pid) => {
      const dir = memoryGroup(`${pid}`);
      return (dir === undefined || dir === own ? null : groupMemoryOf(dir)) ?? [];
    });
  }
}

function jailCode(error: unknown): JailErrorCode | undefined {
  let at = error;
  for (let depth = 0; depth < CAUSES_MAX && at instanceof Error; depth += 1) {
    if (at instanceof JailError) return at.code;
    at = at.cause;
  }
  return undefined;
}
