/** `neurovisor run` with a control plane of this process, which ends with the command. */

import { systemClock } from '../../../base/clock.ts';
import { plain } from '../../../base/text/plain.ts';
import { openPlane } from '../../../host/daemon/plane.ts';
import type { UsageRecord } from '../../../inference/bridge/bridge.ts';
import type { ControlPlane, CreateRequest } from '../../../sandbox/contract/control.ts';
import type { EndCause } from '../../../sandbox/contract/ending.ts';
import type { Cli } from '../../cli.ts';
import { EXIT_NEUROVISOR_FAILED } from '../../exit-status.ts';
import { cassetteChoice } from '../../flags/cassette-flags.ts';
import { imageRequest } from '../../flags/image-flag.ts';
import { modelChoice } from '../../flags/model-choice.ts';
import { RUN_FIELDS, sandboxRequest } from '../../flags/sandbox-fields.ts';
import { attachConsole } from '../../output/console.ts';
import { endCassette } from './cassette.ts';
import { type RunJob, wantsSerialConsole } from './job.ts';
import { copyFiles } from './placement.ts';
import type { Script } from './script.ts';
import { type RunSandbox, runJob, withSandbox } from './session.ts';

export async function runHere(cli: Cli, job: RunJob): Promise<number> {
  const { script, flags } = job;
  const wantsConsole = wantsSerialConsole(flags);
  const choice = modelChoice(flags.model, cli.config);
  const asked = sandboxRequest(RUN_FIELDS, flags, cli);
  const request: CreateRequest = {
    ...asked,
    models: { ...choice.policy, ...asked.models },
    requirements: job.requirements,
    ...(await imageRequest(flags)),
    console: wantsConsole ? 'interactive' : 'log',
  };
  const usage: UsageRecord[] = [];
  const fromMs = systemClock.now();
  await using plane = await openPlane({
    config: { ...cli.config, jail: flags.jail ?? cli.config.jail, cassette: cassetteChoice(flags, cli.config) },
    progress: cli.progress.report,
    log: cli.log,
    planeLog: cli.planeLog,
    signal: cli.cancelled,
    modelLater: true,
    modelPath: choice.path,
    onUsage: (record) => void usage.push(record),
    checkUpstream: choice.check,
    sandboxes: 'temporary',
  });
  const { runtime, control } = plane;
  const status = await runtime.tracer.span('run', { fromMs }, async (span) => {
    span.part('set-up', fromMs, systemClock.now());
    return await withSandbox(cli, control, request, async (sandbox) => {
      // On a fresh machine it is fetched while the template is built.
      await runtime.artifacts.model;
      cli.progress.close();
      span.set({ 'neurovisor.sandbox.id': sandbox.info.id });
      if (wantsConsole) {
        await copyFiles(cli, await control.guest(sandbox.info.id), flags);
        await attachConsole(cli, control, sandbox.info.id, script);
        return await consoleStatus(cli, control, sandbox);
      }
      if (script !== null && usesModel(script)) runtime.warmUpstream();
      const cassette = () => runtime.tape?.report() ?? null;
      return await runJob(cli, control, { sandbox, job, usage: async () => usage, cassette });
    });
  });
  return runtime.tape === null ? status : endCassette(cli, runtime.tape.report(), status);
}

const HOST_FAILURES: ReadonlySet<string> = new Set<EndCause>([
  'vmm-crashed',
  'vmm-killed',
  'host-oom',
  'seccomp-violation',
]);

/** 0 unless the host ended the sandbox. */
async function consoleStatus(cli: Cli, control: ControlPlane, sandbox: RunSandbox) {
  await sandbox.remove();
  const full = sandbox.fullDisk();
  if (full !== null) cli.stderr.write(`neurovisor: ${plain(full)}\n`);
  const { end } = await control.get(sandbox.info.id);
  const isHosts = full !== null || (end !== null && HOST_FAILURES.has(end.cause));
  return isHosts ? EXIT_NEUROVISOR_FAILED : 0;
}

/** A guess that only saves time: the engine loads its model while the guest still imports. */
function usesModel(script: Script): boolean {
  return /openai|langchain|anthropic|ollama|litellm|llama_index/i.test(script.code);
}
