/** `neurovisor run` with a sandbox of this process, which ends with it. */
import { sleep, systemClock } from '../../../base/clock.ts';
import { ignore } from '../../../base/ignore.ts';
import type { UsageRecord } from '../../../bridge/bridge.ts';
import type { Runtime } from '../../../runtime/runtime.ts';
import type { SandboxEnd } from '../../../sandbox/ending.ts';
import { type GrowingSandbox, MemoryGrowth } from '../../../sandbox/memory/growth.ts';
import { diskFullText } from '../../../sandbox/vm/full-disk.ts';
import type { Supervisor } from '../../../sandbox/vm/supervisor.ts';
import { tracedGuest } from '../../../sandbox/vm/traced-guest.ts';
import { type Cli, INTERRUPT_GRACE_MS } from '../../cli.ts';
import { UsageError } from '../../failure.ts';
import { modelChoice } from '../../flags/model-choice.ts';
import { sandboxOptions } from '../../flags/sandbox-flags.ts';
import { attachConsole } from '../../output/console.ts';
import { statusOfEnd } from '../../output/loss.ts';
import { exitStatus, relay } from '../../output/program-streams.ts';
import { phases, timingsTable } from '../../output/timings.ts';
import { copyForRun } from '../../transfer/copy-in.ts';
import { openRuntime } from '../open-runtime.ts';
import { pythonSpec, type RunJob, type RunReport, readsStdin } from './job.ts';
import type { Script } from './script.ts';

/** The supervisor needs half a second at most to find out why a link broke, and some to release. */
const END_GRACE_MS = 3_000;

export async function runHere(cli: Cli, job: RunJob): Promise<number> {
  const { flags } = job;
  const wantsConsole = flags.interactive === true && flags.tty === true;
  const choice = modelChoice(flags.model);
  const options = {
    ...sandboxOptions(cli, flags, choice.policy),
    console: wantsConsole ? 'interactive' : 'log',
  } as const;
  const usage: UsageRecord[] = [];
  const fromMs = systemClock.now();
  await using runtime = await openRuntime(cli, {
    keepsProgress: true,
    config: { ...cli.config, jail: flags.jail ?? cli.config.jail },
    modelPath: choice.path,
    onUsage: (record) => void usage.push(record),
  });
  return await runtime.tracer.span('run', { fromMs }, async (span) => {
    span.part('set-up', fromMs, systemClock.now());
    choice.check(runtime.upstream);
    const start = (): Promise<Supervisor> =>
      flags.template === false
        ? runtime.createSandbox(options, cli.cancelled)
        : runtime.cloneSandbox(options, cli.cancelled);
    const sandbox = await runtime.tracer.span('create', {}, start);
    span.set({ 'neurovisor.sandbox.id': sandbox.spec.id });
    return await use(cli, { runtime, sandbox, job, usage, wantsConsole });
  });
}

interface Ready {
  readonly runtime: Runtime;
  readonly sandbox: Supervisor;
  readonly job: RunJob;
  readonly usage: readonly UsageRecord[];
  readonly wantsConsole: boolean;
}

async function use(cli: Cli, ready: Ready): Promise<number> {
  const { runtime, sandbox, job, usage, wantsConsole } = ready;
  const { script, flags } = job;
  cli.progress.close();
  // The first signal ends the script, the second everything; SIGTERM and SIGHUP everything at once.
  cli.onEnd(() => void sandbox.stop());
  let isFull = false;
  const growth = new MemoryGrowth({ clock: systemClock, log: cli.log });
  const growing = growingOf(sandbox);
  sandbox.events.listen((event) => {
    void growth.take(growing, event);
    if (event.type !== 'disk_full') return;
    // Nobody could resume it.
    isFull = true;
    void sandbox.stop('host-disk-full', diskFullText(event));
  });
  try {
    if (wantsConsole) return await attachConsole(cli, sandbox, script);
    if (script === null) throw new UsageError('nothing to run');
    if (usesModel(script)) runtime.warmUpstream();
    for (const path of flags.copy) await copyForRun(cli, sandbox.guest(), path);
    return await runScript(cli, { runtime, sandbox, script, job, usage });
  } catch (error) {
    if (!isFull) throw error;
    ignore(error, 'what went wrong is that the host is full');
    return statusOfEnd(cli, await sandbox.ended, 'the script');
  }
}

/** No queue of starts shares the host's room with it, so no step is kept any. */
function growingOf(sandbox: Supervisor): GrowingSandbox {
  return {
    id: sandbox.spec.id,
    get spec() {
      return sandbox.spec;
    },
    // What goes wrong is in the log; nobody reads its events.
    events: { note: () => undefined },
    resizeMemory: (memoryMib, by) => sandbox.resizeMemory(memoryMib, by),
  };
}

/** A guess that only saves time: the engine loads its model while the guest still imports. */
function usesModel(script: Script): boolean {
  return /openai|langchain|anthropic|ollama|litellm|llama_index/i.test(script.code);
}

interface Started {
  readonly runtime: Runtime;
  readonly sandbox: Supervisor;
  readonly script: Script;
  readonly job: RunJob;
  readonly usage: readonly UsageRecord[];
}

async function runScript(cli: Cli, run: Started): Promise<number> {
  const { runtime, sandbox, script, job, usage } = run;
  const asked = performance.now();
  const guest = tracedGuest(sandbox.guest(), sandbox.spec.id, runtime.tracer);
  const process = await guest.python(pythonSpec(script, job.args, job.flags));
  const started = performance.now();
  const stdin = readsStdin(script);
  const relayed = await relay(cli, process, { stdin, graceMs: INTERRUPT_GRACE_MS });
  const { exit, stdout, stderr, firstAt: first } = relayed;
  // A VM that dies takes the script with it: then its end, not the broken stream, is the news.
  if (exit === null) ignore(relayed.lost, 'the end of the sandbox explains it');
  const moments = { asked, started, ended: performance.now(), first };
  const list = phases({ timings: sandbox.timings ?? null, claimMs: null }, moments, usage);
  const end = exit === null ? await endOf(sandbox) : await sandbox.stop();
  const { accelerator, description } = runtime.driver;
  if (cli.json) {
    cli.printJson({
      ...{ sandbox: sandbox.spec.id, accelerator, exit, end: exit === null ? end.cause : null },
      ...{ stdout, stderr, phases: list, usage },
    } satisfies RunReport);
  } else if (job.flags.timings === true) {
    cli.stderr.write(`${timingsTable(list, description)}\n`);
  }
  return exit === null ? statusOfEnd(cli, end, 'the script') : exitStatus(cli, exit, 'the script');
}

/** Why the sandbox went away under its script; ended by us if it did not. */
async function endOf(sandbox: Supervisor): Promise<SandboxEnd> {
  const grace = sleep(END_GRACE_MS).then(() => sandbox.stop());
  return await Promise.race([sandbox.ended, grace]);
}
