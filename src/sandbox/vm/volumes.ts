/** The volumes of a sandbox in its guest: mounted before the first program, clean after the last one. */
import type { Clock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { timeLimit } from '../../base/time-limit.ts';
import type { Guest } from '../../machine/guest/link.ts';
import type { Vm } from '../../machine/vmm/driver.ts';
import { SandboxError } from '../contract/errors.ts';
import type { SandboxSpec } from '../contract/spec.ts';

/** The longest that a guest may take to write what its programs have written; what is not written is lost. */
const RELEASE_MS_MAX = 30_000;
/** How the agent's problems with volumes begin. */
const PROBLEM = 'volume ';

/** @throws SandboxError `volumes_unavailable`: the guest could not mount one */
export function requireMounted({ volumes }: SandboxSpec, { info }: Pick<Guest, 'info'>): void {
  if (volumes.length === 0) return;
  const problem = info.problems.find((text) => text.startsWith(PROBLEM));
  if (problem === undefined) return;
  throw new SandboxError('volumes_unavailable', problem.slice(0, 500), {
    remedy: 'attach it once without :ro, which repairs what a crash left; what stays damaged can only be removed',
  });
}

/** Lets the guest write everything, before its VM ends. Never rejects: the VM ends in any case. */
export async function releaseVolumes(
  spec: SandboxSpec,
  {
    vm,
    guest,
    isPaused,
  }: { readonly vm: Vm | undefined; readonly guest: Guest | undefined; readonly isPaused: boolean },
  { clock, log }: { readonly clock: Clock; readonly log: Log },
): Promise<void> {
  if (vm === undefined || guest === undefined || spec.volumes.every(({ readOnly }) => readOnly === true)) return;
  if ((vm.fullDisk?.() ?? null) !== null) return;
  using limit = timeLimit(clock, RELEASE_MS_MAX);
  try {
    if (isPaused) await vm.resume();
    await guest.settle({ freezeVolumes: true }, limit.signal);
  } catch (error) {
    log.warn('a guest did not write all to its volumes', { sandbox: spec.id, error: describeError(error) });
  }
}
