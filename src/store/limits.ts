/** Limits of the store; each with its unit and with what happens beyond it. */
import { MIB } from '../base/units.ts';

/** Sandboxes that have ended and can still be read; older ones are forgotten. */
export const ENDED_SANDBOXES_MAX = 1000;

/** Of those, how many have their logs kept: the newest. Some 25 MiB at most. */
export const END_LOGS_MAX = 200;

/** A console, or the VMM's log, of one that has ended, bytes; of a longer one the end is kept. */
export const END_LOG_BYTES_MAX = 64 * 1024;

/** How often one who waits for another process looks again, ms. */
export const POLL_MS = 3;

/** Longest wait for another process, ms, then `store_busy`. What is held is held for milliseconds. */
export const WAIT_MS_MAX = 30_000;

/**
 * Kept so that rows can be removed when the disk is full, bytes. A transaction of the largest kind (a
 * paused sandbox with its snapshot, or an ended one with its logs) touches some fifty pages of 4 KiB.
 */
export const RESERVE_BYTES = MIB;
