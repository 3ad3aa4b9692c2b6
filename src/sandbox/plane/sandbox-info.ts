/** A sandbox as it is told to others. */
import type { SandboxInfo } from '../control.ts';
import { endInfo, type SandboxEnd } from '../ending.ts';
import { type Birth, networkInfo, type Terms } from '../request.ts';
import { type SandboxSpec, specInfo } from '../spec.ts';

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
  const { timeoutMs: _limit, ...rest } = terms;
  return {
    ...{ id: spec.id, status, pausedTo, endsAtMs, ...rest, ...birth, ...specInfo(spec) },
    ...{ timings, readyMs, accelerator, network: networkInfo(spec.network, card) },
    end: end && endInfo(end),
  };
}
