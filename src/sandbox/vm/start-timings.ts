/** The duration of a start, phase by phase. */

import { passiveTracer, type Span, type Tracer } from '../../base/trace/trace.ts';
import type { GuestInfo } from '../../machine/guest/guest.ts';
import type { Vm } from '../../machine/vmm/driver.ts';
import type { StartTimings } from '../contract/parts.ts';

/**
 * @param at times of one clock, milliseconds; `guest` is `null` for a clone, whose guest has the times of its
 * template's boot
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

/** Adds the phases to a span. @param beganMs monotonic clock */
export function traceStart(span: Span, timings: StartTimings, beganMs: number): void {
  const { origin, prepareMs, vmmMs, kernelMs, agentMs } = timings;
  span.set({ 'neurovisor.start.origin': origin });
  let fromMs = beganMs;
  const phases = { prepare: prepareMs, vmm: vmmMs, kernel: kernelMs, agent: agentMs };
  for (const [name, ms] of Object.entries(phases)) {
    // A clone has no kernel that starts.
    if (ms > 0) span.part(name, fromMs, fromMs + ms);
    fromMs += ms;
  }
}

export function tracedStart(
  tracer: Tracer | undefined,
  sandboxId: string,
  boot: (span: Span) => Promise<void>,
): Promise<void> {
  const attributes = { 'neurovisor.sandbox.id': sandboxId };
  return (tracer ?? passiveTracer()).span('VM start', { attributes }, boot);
}
