/**
 * `neurovisor run` with a sandbox of the daemon. It starts from the daemon's pool, so nothing is set up here, and ends
 * with the session of this command, even if the command is killed.
 */

import { systemClock } from '../../../base/clock.ts';
import type { UsageRecord } from '../../../inference/bridge/bridge.ts';
import type { ControlPlane, SandboxInfo } from '../../../sandbox/contract/control.ts';
import type { Cli } from '../../cli.ts';
import { checkModelThere } from '../../flags/offered.ts';
import { RUN_FIELDS, sandboxRequest } from '../../flags/sandbox-fields.ts';
import { templateStep, withTemplateProgress } from '../../output/template-progress.ts';
import { pulledImage } from '../pull-image.ts';
import type { RunJob } from './job.ts';
import { runJob, withSandbox } from './session.ts';

/** @param control a client with a session */
export async function runInDaemon(cli: Cli, control: ControlPlane, job: RunJob): Promise<number> {
  const { flags, requirements } = job;
  const model = flags.model === undefined ? {} : { defaultModel: flags.model };
  const asked = sandboxRequest(RUN_FIELDS, flags, cli);
  const request = { ...asked, models: { ...model, ...asked.models }, requirements, ...(await pulledImage(cli, flags)) };
  await checkModelThere(control, flags.model);
  const step = templateStep(request);
  const wait =
    step === null
      ? undefined
      : (creating: Promise<SandboxInfo>) => withTemplateProgress(cli, systemClock, step, creating);
  return await withSandbox(
    cli,
    control,
    request,
    async (sandbox) => {
      const { id } = sandbox.info;
      const usage = () => usageOf(control, id);
      return await runJob(cli, control, { sandbox, job, usage });
    },
    wait,
  );
}

/** Empty for an ended sandbox: the daemon has forgotten it. */
async function usageOf(control: ControlPlane, id: string): Promise<readonly UsageRecord[]> {
  const { end } = await control.get(id);
  return end === null ? await control.usage(id) : [];
}
