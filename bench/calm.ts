/** Waits until the machine is idle: other work distorts figures in milliseconds. */
import { cpus } from 'node:os';
import { sleep } from '../src/base/clock.ts';

/** Milliseconds since boot, over all processors. */
interface CpuTimes {
  readonly idleMs: number;
  readonly allMs: number;
}

const LOOK_EVERY_MS = 250;
/** The load of a few idle sandboxes. */
const BUSY_SHARE_MAX = 0.1;
const WAIT_MS_MAX = 20_000;

/** @returns false if it is still busy after 20 s */
export async function waitForCalm(signal: AbortSignal): Promise<boolean> {
  let before = cpuTimes();
  for (let waitedMs = 0; waitedMs < WAIT_MS_MAX; waitedMs += LOOK_EVERY_MS) {
    await sleep(LOOK_EVERY_MS, signal);
    const after = cpuTimes();
    if (busyShare(before, after) <= BUSY_SHARE_MAX) return true;
    before = after;
  }
  return false;
}

/** Share of busy CPU time between two readings, 0 … 1. */
export function busyShare(before: CpuTimes, after: CpuTimes): number {
  const allMs = after.allMs - before.allMs;
  return allMs <= 0 ? 0 : 1 - (after.idleMs - before.idleMs) / allMs;
}

function cpuTimes(): CpuTimes {
  let idleMs = 0;
  let allMs = 0;
  for (const { times } of cpus()) {
    idleMs += times.idle;
    allMs += times.user + times.nice + times.sys + times.idle + times.irq;
  }
  return { idleMs, allMs };
}
