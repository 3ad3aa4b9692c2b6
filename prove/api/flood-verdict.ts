/** What the requests of another tenant say about a flood. Pure. */
import { percentile } from '../../src/base/statistics.ts';
import type { Tried } from '../proof.ts';

/** One request, milliseconds. */
export interface Sample {
  readonly ms: number;
  /** Processor time that the daemon's event loop used meanwhile, which other load does not prolong. */
  readonly cpuMs: number;
  /** Time for which the daemon's event loop and the caller waited for a processor. */
  readonly waitMs: number;
}

/** Requests without the flood, and in the flood that followed. */
export interface Round {
  readonly calm: readonly Sample[];
  readonly flooded: readonly Sample[];
}

export const P99_MS_MAX = 50;
/** A machine on which a calm daemon takes longer is too busy to blame a flood for waits of unknown cause. */
const CALM_P99_MS_MAX = P99_MS_MAX / 4;

/** Other load only adds time, so the best of each counts. */
export function floodTry(kind: string, rounds: readonly Round[]): Tried {
  const best = (part: keyof Round, time: (sample: Sample) => number): number =>
    Math.min(...rounds.map((round) => percentile(round[part].map(time), 99) ?? Number.POSITIVE_INFINITY));
  const [calm, flooded] = [best('calm', ({ ms }) => ms), best('flooded', ({ ms }) => ms)];
  const cpu = best('flooded', ({ cpuMs }) => cpuMs);
  const unexplained = best('flooded', ({ ms, waitMs }) => ms - waitMs);
  const isHeld = flooded <= P99_MS_MAX;
  const isOurs = cpu > P99_MS_MAX || (unexplained > P99_MS_MAX && calm <= CALM_P99_MS_MAX);
  const seen = `p99 ${text(flooded)} ms (processor ${text(cpu)}), without the flood ${text(calm)}`;
  return {
    what: `/v1/health of another tenant in a flood of ${kind}`,
    expected: `p99 at most ${P99_MS_MAX} ms`,
    seen: isHeld || isOurs ? seen : `inconclusive, busy machine: ${seen}`,
    ok: isHeld || !isOurs,
  };
}

const text = (ms: number): string => ms.toFixed(1);
