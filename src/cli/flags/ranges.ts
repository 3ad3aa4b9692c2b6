/**
 * Numbers of the command line with the range that each may be in. Checked before anything is asked for, so
 * that a message names the option as it was written; the daemon checks again, by its own names.
 */
import type { PoolLimits } from '../../sandbox/control.ts';
import { FORKS_MAX, IDLE_TIMEOUT_MS_MIN, POOL_MEMBERS_MAX } from '../../sandbox/request.ts';
import { LIMITS } from '../../sandbox/spec.ts';
import { UsageError } from '../failure.ts';
import { parseCount, parseDuration, parseMemory } from './options.ts';

const ROUNDS_MAX = 10_000;
const PORT_MAX = 65_535;

export const cpus = counted('--cpus', 1, LIMITS.cpusMax);
export const forks = counted('--count', 1, FORKS_MAX);
export const poolMin = counted('MIN', 0, POOL_MEMBERS_MAX);
export const poolMax = counted('MAX', 0, POOL_MEMBERS_MAX);
export const port = counted('--port', 0, PORT_MAX);
export const rounds = counted('--rounds', 1, ROUNDS_MAX);

/** MiB */
export const memory = sized('--memory', LIMITS.memoryMibMin, LIMITS.memoryMibMax);
/** MiB */
export const memoryMax = sized('--memory-max', LIMITS.memoryMibMin, LIMITS.memoryMibMax);
/** MiB */
export const disk = sized('--disk', LIMITS.diskMibMin, LIMITS.diskMibMax);

/** Milliseconds; for sandboxes and programs alike. */
export const timeout = timed('--timeout', 1, LIMITS.timeoutMsMax);
/** Milliseconds */
export const interval = timed('--interval', 100, 3_600_000);
/** Milliseconds; `net latency`. */
export const latencyTime = timed('--for', 1, 3_600_000);
/** Milliseconds */
export const idleTimeout = timed('--idle-timeout', IDLE_TIMEOUT_MS_MIN, LIMITS.timeoutMsMax);

/** `MIN` or `MIN:MAX`. */
export function pool(text: string): PoolLimits {
  const match = /^(\d{1,4})(?::(\d{1,4}))?$/.exec(text);
  const min = Number(match?.[1]);
  const max = Number(match?.[2] ?? match?.[1]);
  if (match === null || min > max || max > POOL_MEMBERS_MAX) {
    throw new UsageError(
      `invalid pool size "${text}"`,
      `use MIN or MIN:MAX, up to ${POOL_MEMBERS_MAX}, for example 1:4`,
    );
  }
  return { min, max };
}

type Parse = (text: string) => number;

function counted(name: string, min: number, max: number): Parse {
  return ranged(name, parseCount, { min, max, inWords: String });
}

function sized(name: string, min: number, max: number): Parse {
  return ranged(name, parseMemory, { min, max, inWords: mebibytes });
}

function timed(name: string, min: number, max: number): Parse {
  return ranged(name, parseDuration, { min, max, inWords: time });
}

interface Range {
  readonly min: number;
  readonly max: number;
  /** As a person would write it there. */
  inWords(value: number): string;
}

function ranged(name: string, parse: Parse, { min, max, inWords }: Range): Parse {
  return (text) => {
    const value = named(name, () => parse(text));
    if (value >= min && value <= max) return value;
    throw new UsageError(`${name}: ${text} is out of range (${inWords(min)} to ${inWords(max)})`);
  };
}

/** What is wrong with a value, with the option in front that has it, unless that is named already. */
export function named<T>(name: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof UsageError) || error.message.startsWith(name)) throw error;
    throw new UsageError(`${name}: ${error.message}`, error.remedy);
  }
}

function mebibytes(mib: number): string {
  return mib % 1024 === 0 ? `${mib / 1024}G` : `${mib}M`;
}

function time(ms: number): string {
  if (ms % 3_600_000 === 0) return `${ms / 3_600_000}h`;
  return ms % 1000 === 0 ? `${ms / 1000}s` : `${ms}ms`;
}
