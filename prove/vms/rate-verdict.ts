/** Verdicts on counted bytes and times: whether a token bucket held, and whether a neighbor was spared. Pure. */
import { percentile } from '../../src/base/statistics.ts';
import { KIB } from '../../src/base/units.ts';
import type { Tried } from '../proof.ts';

/** Bytes that had passed at some moment between two readings of a monotonic clock. */
export interface Count {
  readonly askedAtMs: number;
  readonly answeredAtMs: number;
  /** Since the start. */
  readonly bytes: number;
}

export interface Rate {
  /** Tokens of the full bucket, bytes. */
  readonly size: number;
  readonly perSecond: number;
  /** The largest spend, which may go into debt, bytes. */
  readonly turn: number;
}

/** Minimum share of the rate that must pass, while there was always more to send. */
const SHARE_MIN = 0.5;
const COUNTS_MIN = 10;
/** A fraction of the rate in software emulation on an idle machine, bytes per second. */
const LIMIT_MAX = 256 * KIB;
/** One turn a second. */
const LIMIT_MIN = 64 * KIB;
/** A busy machine may give less a moment later. */
const HEADROOM = 4;

/**
 * The window with the most bytes above what the rate allows in it. Any two counts make one; its time is the longest
 * that the readings allow, so that a late answer is no fault.
 */
export interface Window {
  readonly bytes: number;
  readonly ms: number;
  /** Positive: more than allowed. */
  readonly excess: number;
}

export function worstWindow(counts: readonly Count[], rate: Rate): Window | undefined {
  let worst: Window | undefined;
  for (const [n, first] of counts.entries()) {
    for (const last of counts.slice(n + 1)) {
      const bytes = last.bytes - first.bytes;
      const ms = last.answeredAtMs - first.askedAtMs;
      const excess = bytes - rate.size - rate.turn - (rate.perSecond * ms) / 1000;
      if (worst === undefined || excess > worst.excess) worst = { bytes, ms, excess };
    }
  }
  return worst;
}

/** Bytes per second from the first count to the last. */
export function perSecondOf(counts: readonly Count[]): number {
  const [first, last] = [counts[0], counts.at(-1)];
  if (first === undefined || last === undefined) return 0;
  const seconds = (last.answeredAtMs - first.askedAtMs) / 1000;
  return seconds > 0 ? (last.bytes - first.bytes) / seconds : 0;
}

/** The share of the rate that passed from the first count to the last: 1 is all of it, without the burst. */
export function shareOf(counts: readonly Count[], rate: Rate): number {
  return perSecondOf(counts) / rate.perSecond;
}

/** A limit that this machine exceeds without it, bytes per second. @param free rate without a limit */
export function limitBelow(free: number): number {
  return Math.min(LIMIT_MAX, Math.max(LIMIT_MIN, Math.floor(free / HEADROOM)));
}

/**
 * Tries of a limited direction: never more than the rate in any window, and not much less in total.
 * @param sinceMs when there was something to send, for the second try
 */
export function limitedTries(
  what: string,
  counts: readonly Count[],
  rate: Rate,
  sinceMs = Number.NEGATIVE_INFINITY,
): Tried[] {
  const worst = worstWindow(counts, rate);
  const sent = counts.filter(({ askedAtMs }) => askedAtMs >= sinceMs);
  const share = shareOf(sent, rate);
  const isCounted = counts.length >= COUNTS_MIN && worst !== undefined;
  return [
    {
      what: `${what}: bytes in any window between ${counts.length} counts`,
      expected: `at most ${kib(rate.size + rate.turn)} and ${kib(rate.perSecond)} a second`,
      seen: isCounted ? inWords(worst) : 'too few counts',
      ok: isCounted && worst.excess <= 0,
    },
    {
      what: `${what}: share of the rate`,
      expected: `at least ${SHARE_MIN * 100} %`,
      seen: `${(share * 100).toFixed(0)} %`,
      ok: share >= SHARE_MIN,
    },
  ];
}

/** A control: without the limit, some window has more. */
export function freeTry(what: string, counts: readonly Count[], rate: Rate): Tried {
  const worst = worstWindow(counts, rate);
  return {
    what: `control: ${what}, without a limit`,
    expected: 'more than the limit allowed',
    seen: worst === undefined ? 'too few counts' : inWords(worst),
    ok: worst !== undefined && worst.excess > 0,
  };
}

/** Round trips of a neighbor in milliseconds: alone, beside a limited flood, beside one without a limit. */
export interface NeighborTimes {
  readonly alone: readonly number[];
  readonly limited: readonly number[];
  readonly unlimited: readonly number[];
}

/** Other load on the host only adds time: the faster round trips show more of the flood than the median does. */
const FASTER_PERCENT = 25;

/**
 * The limit must remove at least half of the flood's cost for the neighbor. A flood that costs less than the time of a
 * round trip alone shows nothing, and then the limited one may not cost more either.
 */
export function neighborTry(times: NeighborTimes): Tried {
  const faster = (samples: readonly number[]): number | undefined => percentile(samples, FASTER_PERCENT);
  const [alone, limited, unlimited] = [times.alone, times.limited, times.unlimited].map(faster);
  const isMeasured = alone !== undefined && limited !== undefined && unlimited !== undefined;
  const most = isMeasured ? Math.max(2 * alone, (alone + unlimited) / 2) : 0;
  const ms = (value: number | undefined): string => `${value?.toFixed(1) ?? '?'} ms`;
  return {
    what: `round trip of the neighbor beside a limited flood, lower quartile of ${times.limited.length}`,
    expected: `at most ${ms(most)}`,
    seen: `${ms(limited)}; alone ${ms(alone)}, unlimited ${ms(unlimited)}`,
    ok: isMeasured && limited <= most,
  };
}

function inWords({ bytes, ms, excess }: Window): string {
  const over = excess > 0 ? `${kib(excess)} more` : `${kib(-excess)} less`;
  return `${kib(bytes)} in ${ms.toFixed(0)} ms: ${over} than allowed`;
}

const kib = (bytes: number): string => `${(bytes / KIB).toFixed(0)} KiB`;
