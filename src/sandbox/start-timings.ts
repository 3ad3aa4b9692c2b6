/** How long a start took, phase by phase. */
import type { GuestInfo } from '../guest/guest.ts';
import type { Vm } from '../vmm/driver.ts';
import type { StartTimings } from './parts.ts';

/**
 * @param at times of one clock, milliseconds; `guest` null: a clone, whose guest remembers the boot of its template
 */
export function startTimings(at: {
  readonly beganMs: number;
  readonly preparedMs: number;
  readonly readyMs: number;
  readonly vmm: Vm['timings'];
  readonly guest: Pick<GuestInfo, 'kernelToInitMs'> | null;
}): StartTimings {
  const { beganMs, preparedMs, readyMs, vmm, guest } = at;
  const kernelMs = guest?.kernelToInitMs ?? 0;
  return {
    origin: guest === null ? 'clone' : 'boot',
    prepareMs: preparedMs - beganMs,
    vmmMs: vmm.runningMs,
    kernelMs,
    agentMs: Math.max(0, readyMs - preparedMs - vmm.runningMs - kernelMs),
    totalMs: readyMs - beganMs,
  };
}
