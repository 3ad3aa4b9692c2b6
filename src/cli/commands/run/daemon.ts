/** `neurovisor run` with a sandbox of the daemon. It starts from the daemon's pool, so nothing is set up here. */
import { type Clock, systemClock } from '../../../base/clock.ts';
import { ignore } from '../../../base/ignore.ts';
import type { UsageRecord } from '../../../bridge/bridge.ts';
import type { ControlPlane } from '../../../sandbox/control.ts';
import type { Cli } from '../../cli.ts';
import { UsageError } from '../../failure.ts';
import { checkModelThere } from '../../flags/offered.ts';
import { sandboxOptions } from '../../flags/sandbox-flags.ts';
import type { RunJob } from './job.ts';
import { runScript, withSandbox } from './session.ts';

/** A killed command can't remove its sandbox: the daemon removes it when the lease is not renewed for this long. */
export const LEASE_MS = 60_000;
const RENEWAL_MS = LEASE_MS / 3;

export async function runInDaemon(
  cli: Cli,
  control: ControlPlane,
  job: RunJob,
  clock: Clock = systemClock,
): Promise<number> {
  const { script, flags } = job;
  if (script === null) throw new UsageError('nothing to run');
  const model = flags.model === undefined ? {} : { defaultModel: flags.model };
  const request = { ...sandboxOptions(cli, flags, model), timeoutMs: LEASE_MS };
  await checkModelThere(control, flags.model);
  return await withSandbox(cli, control, request, async (sandbox) => {
    const { id } = sandbox.info;
    const stopRenewing = renewLease(control, id, clock);
    try {
      const usage = () => usageOf(control, id);
      return await runScript(cli, control, { sandbox, script, job, usage });
    } finally {
      stopRenewing();
    }
  });
}

/** Empty for an ended sandbox: the daemon has forgotten it. */
async function usageOf(control: ControlPlane, id: string): Promise<readonly UsageRecord[]> {
  const { end } = await control.get(id);
  return end === null ? await control.usage(id) : [];
}

/** Postpones the end of the sandbox for as long as this command lives. Returns how to stop. */
function renewLease(control: ControlPlane, id: string, clock: Clock): () => void {
  let cancel: () => void;
  const next = (): void => {
    cancel = clock.after(RENEWAL_MS, () => {
      control
        .update(id, { timeoutMs: LEASE_MS })
        .catch((error: unknown) => ignore(error, 'the next request, or the end, reports it'));
      next();
    });
  };
  next();
  return () => cancel();
}
