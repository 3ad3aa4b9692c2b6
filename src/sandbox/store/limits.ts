/** Limits of the store, with units and what happens beyond them. */
import { MIB } from '../../base/units.ts';

/** Ended sandboxes that stay readable; older ones are forgotten. */
export const ENDED_SANDBOXES_MAX = 1000;

/** Newest ended sandboxes whose logs are kept: about 25 MiB at most. */
export const END_LOGS_MAX = 200;

/** Kept tail of a console or VMM log, bytes. */
export const END_LOG_BYTES_MAX = 64 * 1024;

/** Poll interval while waiting for another process, ms. */
export const POLL_MS = 3;

/** Longest wait for another process, ms, then `store_busy`. Locks are normally held for milliseconds. */
export const WAIT_MS_MAX = 30_000;

/**
 * Reserve that lets rows be removed when the disk is full, bytes. The largest transactions (a paused sandbox with its
 * snapshot, an ended one with its logs) touch about fifty pages of 4 KiB.
 */
export const RESERVE_BYTES = MIB;
