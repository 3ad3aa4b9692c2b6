/** A sandbox as it is told to others. */
import type { SandboxInfo } from './control.ts';
import { endInfo, type SandboxEnd } from './ending.ts';
import { type Birth, networkInfo, type Terms } from './request.ts';
import { secretInfo } from './secrets.ts';
import type { SandboxSpec } from './spec.ts';

export interface PresentState
  extends Pick<SandboxInfo, 'status' | 'pausedTo' | 'endsAtMs' | 'timings' | 'readyMs'> {
  readonly accelerator: string;
  readonly end: SandboxEnd | null;
  /** Of its network card, while it has a VM. */
  readonly card: Parameters<typeof networkInfo>[1];
}

export function infoOf(
  spec: SandboxSpec,
  terms: Terms,
  birth: Birth,
  { status, pausedTo, endsAtMs, timings, readyMs, accelerator, end, card }: PresentState,
): SandboxInfo {
  const { id, cpus, memoryMib, diskMib, network, secrets } = spec;
  const { timeoutMs: _limit, ...rest } = terms;
  return {
    ...{ id, status, pausedTo, cpus, memoryMib, diskMib, endsAtMs, ...rest, ...birth },
    ...{ timings, readyMs, accelerator },
    network: networkInfo(network, card),
    secrets: secretInfo(secrets),
    end: end && endInfo(end),
  };
}
