/** Waits until the machine has nothing else to do: figures of milliseconds mean little beside other work. */
import { cpus } from 'node:os';
import { sleep } from '../base/clock.ts';

/** Milliseconds since the start of the machine, all processors together. */
interface CpuTimes {
  readonly idleMs: number;
  readonly allMs: number;
}

const LOOK_EVERY_MS = 250;
/** What a few idle sandboxes take together. */
const BUSY_SHARE_MAX = 0.1;
const WAIT_MS_MAX = 20_000;

/** @returns false: it was still busy after 20 s */
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

/** Of all processors' time between two readings, 0 … 1. */
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
