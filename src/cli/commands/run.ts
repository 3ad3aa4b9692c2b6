/**
 * `neurovisor run`: boots a sandbox, runs one script in it, passes its streams and its exit status on,
 * and removes every trace.
 */
import { Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { sleep } from '../../base/clock.ts';
import { describeError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { UsageRecord } from '../../bridge/bridge.ts';
import type { Process, ProcessExit } from '../../guest/link.ts';
import type { Runtime } from '../../runtime/runtime.ts';
import type { ModelPolicy, SandboxOptions } from '../../sandbox/spec.ts';
import type { SandboxEnd, Supervisor } from '../../sandbox/supervisor.ts';
import type { Cli } from '../cli.ts';
import { attachConsole, requireTerminal } from '../console.ts';
import { copyIn } from '../copy.ts';
import { EXIT_NEUROVISOR_FAILED, EXIT_TIMEOUT, exitOfSignal, UsageError } from '../failure.ts';
import { modelChoice } from '../model.ts';
import { openRuntime } from '../open.ts';
import { parseAliases, parseDuration, parseEnv, parseMemory, parseRate } from '../options.ts';
import { readScript, type Script } from '../script.ts';
import { type Phase, phases, timingsTable } from '../timings.ts';

export interface RunFlags {
  readonly code?: string;
  readonly interactive?: boolean;
  readonly tty?: boolean;
  readonly env: readonly string[];
  readonly copy: readonly string[];
  readonly warm: readonly string[];
  readonly alias: readonly string[];
  readonly allowModel: readonly string[];
  readonly cpus?: number;
  readonly memory?: string;
  readonly disk?: string;
  readonly timeout?: string;
  readonly model?: string;
  readonly rate?: string;
  readonly user?: string;
  readonly timings?: boolean;
  /** False with `--no-template`. */
  readonly template?: boolean;
}

/** What `-o json` prints when the script has ended. */
export interface RunReport {
  readonly sandbox: string;
  readonly accelerator: string;
  readonly exit: ProcessExit | null;
  readonly end: SandboxEnd['cause'] | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly phases: readonly Phase[];
  readonly usage: readonly UsageRecord[];
}

/** In JSON mode the output is held to print it as one object. */
const JSON_OUTPUT_BYTES_MAX = 16 * 1024 * 1024;

/** @returns the exit status of this command: the script's own, or 124/125/128+n as in README.md */
export async function run(
  cli: Cli,
  file: string | undefined,
  args: readonly string[],
  flags: RunFlags,
): Promise<number> {
  const wantsConsole = flags.interactive === true && flags.tty === true;
  if (wantsConsole) requireTerminal(cli);
  const script = wantsConsole && file === undefined ? null : await scriptOf(cli, file, flags);
  const choice = modelChoice(flags.model);
  const options = sandboxOptions(cli, flags, choice.policy, wantsConsole);
  const usage: UsageRecord[] = [];
  await using runtime = await openRuntime(cli, {
    keepsProgress: true,
    modelPath: choice.path,
    onUsage: (record) => void usage.push(record),
  });
  choice.check(runtime.upstream);
  const sandbox =
    flags.template === false
      ? await runtime.createSandbox(options, cli.cancelled)
      : await runtime.cloneSandbox(options, cli.cancelled);
  cli.progress.close();
  // The first signal ends the script, the second everything; SIGTERM and SIGHUP everything at once.
  cli.onEnd(() => void sandbox.stop());
  if (wantsConsole) return await attachConsole(cli, sandbox, script);
  if (script === null) throw new UsageError('nothing to run');
  if (usesModel(script)) runtime.warmUpstream();
  for (const path of flags.copy) await copyIn(sandbox.guest(), path);
  return await runScript(cli, { runtime, sandbox, script, args, flags, usage });
}

/** A guess that only saves time: the engine loads its model while the guest still imports. */
function usesModel(script: Script): boolean {
  return /openai|langchain|anthropic|ollama|litellm|llama_index/i.test(script.code);
}

async function scriptOf(cli: Cli, file: string | undefined, flags: RunFlags): Promise<Script> {
  if (flags.code !== undefined) return { code: flags.code, filename: '<string>' };
  if (file === undefined) {
    throw new UsageError('no script was given', 'neurovisor run FILE, or -c CODE, or - for stdin');
  }
  return await readScript(file, cli.stdin);
}

function sandboxOptions(
  cli: Cli,
  flags: RunFlags,
  model: Partial<ModelPolicy>,
  interactive: boolean,
): SandboxOptions {
  const rate = flags.rate === undefined ? undefined : parseRate(flags.rate);
  const bucket = rate === undefined ? undefined : { size: rate, refillPerSecond: rate };
  return {
    cpus: flags.cpus,
    memoryMib: flags.memory === undefined ? undefined : parseMemory(flags.memory),
    diskMib: flags.disk === undefined ? undefined : parseMemory(flags.disk),
    env: parseEnv(flags.env, cli.env),
    warm: flags.warm,
    console: interactive ? 'interactive' : 'log',
    models: {
      ...model,
      aliases: parseAliases(flags.alias),
      ...(flags.allowModel.length === 0 ? {} : { allow: flags.allowModel }),
    },
    ...(bucket === undefined
      ? {}
      : { channelLimits: { guestToHostBytes: bucket, hostToGuestBytes: bucket } }),
  };
}

interface Job {
  readonly runtime: Runtime;
  readonly sandbox: Supervisor;
  readonly script: Script;
  readonly args: readonly string[];
  readonly flags: RunFlags;
  readonly usage: readonly UsageRecord[];
}

async function runScript(cli: Cli, job: Job): Promise<number> {
  const { sandbox, script, flags } = job;
  const asked = performance.now();
  const readsStdin = script.filename !== '<stdin>';
  const process = await sandbox.guest().python({
    script:
      script.filename === '<string>'
        ? { code: script.code }
        : { code: script.code, name: script.filename },
    args: job.args,
    stdin: readsStdin,
    ...(flags.timeout === undefined ? {} : { timeoutMs: parseDuration(flags.timeout) }),
    ...(flags.user === undefined ? {} : { user: flags.user }),
  });
  const started = performance.now();
  const stopForwarding = forwardStdin(cli, process, readsStdin);
  cli.onInterrupt(() => process.kill('SIGINT'));
  const output = new Output(cli);
  const drained = Promise.all([
    output.pass(process.stdout, cli.stdout),
    output.pass(process.stderr, cli.stderr),
  ]);
  // A VM that dies takes the script with it: then its end, not the broken stream, is the news.
  const exit = await process.exit.catch((error: unknown) => {
    ignore(error, 'the end of the sandbox explains it');
    return null;
  });
  await drained;
  stopForwarding();
  const ended = performance.now();
  const list = phases(sandbox.timings, { asked, started, ended, first: output.firstAt }, job.usage);
  const end = exit === null ? await endOf(sandbox) : await sandbox.stop();
  if (cli.json) {
    cli.printJson({
      sandbox: sandbox.spec.id,
      accelerator: job.runtime.driver.accelerator,
      exit,
      end: exit === null ? end.cause : null,
      stdout: output.text(cli.stdout),
      stderr: output.text(cli.stderr),
      phases: list,
      usage: job.usage,
    } satisfies RunReport);
  } else if (flags.timings === true) {
    cli.stderr.write(`${timingsTable(list, job.runtime.driver.description)}\n`);
  }
  return exitStatus(cli, exit, end);
}

/** Why the sandbox went away under its script; ended by us if it did not. */
async function endOf(sandbox: Supervisor): Promise<SandboxEnd> {
  const grace = sleep(END_GRACE_MS).then(() => sandbox.stop());
  return await Promise.race([sandbox.ended, grace]);
}

/** The supervisor needs half a second at most to find out why a link broke, and some to release. */
const END_GRACE_MS = 3_000;

/** Passes a stream on as it comes; in JSON mode keeps it instead, up to a limit. */
class Output {
  firstAt: number | undefined;
  readonly #cli: Cli;
  readonly #kept = new Map<Writable, { chunks: Buffer[]; bytes: number }>();

  constructor(cli: Cli) {
    this.#cli = cli;
  }

  async pass(from: Readable, to: Writable): Promise<void> {
    const kept = { chunks: [] as Buffer[], bytes: 0 };
    this.#kept.set(to, kept);
    const note = (): void => {
      this.firstAt ??= performance.now();
    };
    const json = this.#cli.json;
    try {
      await pipeline(
        from,
        async function* (source: AsyncIterable<Buffer>) {
          for await (const chunk of source) {
            note();
            if (!json) yield chunk;
            else if (kept.bytes < JSON_OUTPUT_BYTES_MAX) {
              kept.bytes += chunk.length;
              kept.chunks.push(chunk);
            }
          }
        },
        to,
        { end: false },
      );
    } catch (error) {
      // The reader of our output went away (`| head`), or the guest did; neither is worth a message.
      ignore(error, 'output stream closed early');
      from.resume();
    }
  }

  text(of: Writable): string {
    return Buffer.concat(this.#kept.get(of)?.chunks ?? []).toString('utf8');
  }
}

function forwardStdin(cli: Cli, process: Process, wanted: boolean): () => void {
  if (!wanted) return () => undefined;
  const aborter = new AbortController();
  const copying = pipeline(cli.stdin, process.stdin, { signal: aborter.signal });
  copying.catch((error: unknown) => {
    // EPIPE: the script ended without reading all of it. Abort: it ended first.
    if (errorCode(error) !== 'ABORT_ERR') ignore(describeError(error), 'stdin was not read');
  });
  return () => {
    aborter.abort();
    if (cli.stdin instanceof Readable) cli.stdin.destroy();
  };
}

function exitStatus(cli: Cli, exit: ProcessExit | null, end: SandboxEnd): number {
  const say = (text: string): void => {
    if (!cli.json) cli.stderr.write(`neurovisor: ${text}\n`);
  };
  if (exit === null) {
    if (cli.signalStatus !== null) return cli.signalStatus;
    // `reboot` or `poweroff` in the guest is a proper end.
    if (end.cause === 'guest-shutdown') return 0;
    say(`the sandbox ended before the script did: ${end.cause}${end.detail && `: ${end.detail}`}`);
    return EXIT_NEUROVISOR_FAILED;
  }
  if (exit.truncated) say('the script wrote more than its limit; the rest was discarded');
  if (exit.timedOut) {
    say('the script reached its time limit and was ended');
    return EXIT_TIMEOUT;
  }
  if (exit.oomKilled) {
    say('the script was killed because the sandbox ran out of memory; give it more with --memory');
  }
  if (exit.exitCode !== null) return exit.exitCode;
  return exitOfSignal(exit.signal ?? '');
}
