/** Limits of the store; each with its unit and with what happens beyond it. */

/** Sandboxes that have ended and can still be read; older ones are forgotten. */
export const ENDED_SANDBOXES_MAX = 1000;

/** How often one who waits for another process looks again, ms. */
export const POLL_MS = 3;

/** Longest wait for another process, ms, then `store_busy`. What is held is held for milliseconds. */
export const WAIT_MS_MAX = 30_000;

/**
 * Kept so that rows can be removed when the disk is full, bytes. A transaction of the largest kind (a
 * paused sandbox with its snapshot) touches some twenty pages of 4 KiB.
 */
export const RESERVE_BYTES = 1024 * 1024;
