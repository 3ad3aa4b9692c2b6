/**
 * Numbers of the command line, each with its range. Checked before any request, so that a message names the
 * option; the daemon checks again, by field name.
 */
import type { PoolLimits } from '../../sandbox/contract/control.ts';
import { RANGES, type Range } from '../../sandbox/contract/limits.ts';
import { UsageError } from '../failure.ts';
import { parseCount, parseDuration, parseMemory, parseRate } from './options.ts';

const HOUR_MS = 3_600_000;

export const cpus = counted('--cpus', RANGES.cpus);
export const forks = counted('--count', RANGES.forks);
export const poolMin = counted('MIN', RANGES.poolMembers);
export const poolMax = counted('MAX', RANGES.poolMembers);
export const port = counted('--port', { min: 0, max: 65_535 });
export const pid = counted('PID', { min: 1, max: 2 ** 22 });
export const tail = counted('--tail', { min: 0, max: 1_000_000 });
export const rounds = counted('--rounds', { min: 1, max: 10_000 });

/** MiB */
export const memory = sized('--memory', RANGES.memoryMib);
/** MiB */
export const memoryMax = sized('--memory-max', RANGES.memoryMib);
/** MiB */
export const disk = sized('--disk', RANGES.diskMib);
/** MiB */
export const volume = sized('--size', RANGES.diskMib);

/** Bytes per second of the channel. */
export const rate = ranged('--rate', parseRate, RANGES.channelBytes, String);

/** Milliseconds; for sandboxes and programs alike. */
export const timeout = timed('--timeout', RANGES.timeoutMs);
/** Milliseconds */
export const readyTimeout = timed('--ready-timeout', RANGES.readyTimeoutMs);
/** Milliseconds */
export const packageAge = timed('--packages-min-age', RANGES.packageAgeMs);
/** Milliseconds */
export const interval = timed('--interval', { min: 100, max: HOUR_MS });
/** `audit inspect`. */
export const auditRecord = counted('number', { min: 1, max: Number.MAX_SAFE_INTEGER });
/** Of `prove image`. */
export const hostileGuests = counted('--guests', { min: 1, max: 1000 });
/** Milliseconds; `net latency`. */
export const latencyTime = timed('--for', { min: 1, max: HOUR_MS });
/** Milliseconds */
export const idleTimeout = timed('--idle-timeout', RANGES.idleTimeoutMs);

/** `MIN` or `MIN:MAX`. */
export function pool(text: string): PoolLimits {
  const match = /^(\d{1,4})(?::(\d{1,4}))?$/.exec(text);
  const min = Number(match?.[1]);
  const max = Number(match?.[2] ?? match?.[1]);
  if (match === null || min > max || max > RANGES.poolMembers.max) {
    throw new UsageError(
      `invalid pool size "${text}"`,
      `use MIN or MIN:MAX, up to ${RANGES.poolMembers.max}, for example 1:4`,
    );
  }
  return { min, max };
}

type Parse = (text: string) => number;

function counted(name: string, range: Range): Parse {
  return ranged(name, parseCount, range, String);
}

export function sized(name: string, range: Range): Parse {
  return ranged(name, parseMemory, range, mebibytes);
}

export function timed(name: string, range: Range): Parse {
  return ranged(name, parseDuration, range, time);
}

/** @param format writes a value as a person would write it there */
function ranged(name: string, parse: Parse, { min, max }: Range, format: (value: number) => string): Parse {
  return (text) => {
    const value = withOption(name, () => parse(text));
    if (value >= min && value <= max) return value;
    throw new UsageError(`${name}: ${text} is out of range (${format(min)} to ${format(max)})`);
  };
}

/** Parses a value; an error message gets the option in front, unless it names it already. */
export function withOption<T>(name: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof UsageError) || error.message.startsWith(name)) throw error;
    throw new UsageError(`${name}: ${error.message}`, error.remedy);
  }
}

/** As a person would write it: `512M`, `2G`. */
export function mebibytes(mib: number): string {
  return mib % 1024 === 0 ? `${mib / 1024}G` : `${mib}M`;
}

function time(ms: number): string {
  if (ms % 3_600_000 === 0) return `${ms / 3_600_000}h`;
  return ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`;
}
