/**
 * What all words of the command line share: how a command is run, and options that many have. Loads what
 * commands need only when one is run, so that help comes at once.
 */
import { type Command, Option } from 'commander';
import { JAIL_MODES } from '../config.ts';
import type { Daemon } from '../library/daemon.ts';
import { SandboxError } from '../sandbox/errors.ts';
import type { Cli } from './cli.ts';
import {
  EXIT_NEUROVISOR_FAILED,
  exitOfSignal,
  HANDLED_SIGNALS,
  tellFailure,
  UsageError,
} from './failure.ts';
import * as ranges from './flags/ranges.ts';

let json = false;

export interface OutputFlags {
  readonly output?: string;
  /** Wins over NEUROVISOR_VMM. */
  readonly vmm?: string;
}

/** Runs one command and sets the exit status. */
export async function perform(
  { output: format, vmm }: OutputFlags,
  body: (cli: Cli) => Promise<number>,
): Promise<void> {
  json = format === 'json';
  let cli: Cli | undefined;
  for (const signal of HANDLED_SIGNALS) {
    process.on(signal, () => {
      if (cli === undefined) process.exit(exitOfSignal(signal));
      cli.handleSignal(signal);
    });
  }
  try {
    const { readConfig } = await import('../config.ts');
    const env = vmm === undefined ? process.env : { ...process.env, NEUROVISOR_VMM: vmm };
    const config = readConfig(env);
    const { Cli } = await import('./cli.ts');
    cli = new Cli({ streams: process, env: process.env, config, json });
    process.exitCode = await body(cli);
  } catch (error) {
    cli?.progress.close();
    fail(error, cli?.signalStatus ?? null);
  } finally {
    cli?.progress.close();
    if (!process.stdin.isTTY) process.stdin.destroy();
    else process.stdin.unref();
  }
}

/**
 * A command on the sandboxes of the daemon.
 * @param check of the words, before the daemon is looked for: wrong ones are wrong without one too
 */
export function performThere(
  flags: OutputFlags,
  body: (cli: Cli, control: Daemon) => Promise<number>,
  check: (cli: Cli) => unknown = () => undefined,
): Promise<void> {
  return perform(flags, async (cli) => {
    await check(cli);
    const { reachDaemon } = await import('./daemon/reach.ts');
    await using control = await reachDaemon(cli);
    return await body(cli, control);
  });
}

function fail(error: unknown, signalStatus: number | null): void {
  if (signalStatus !== null) {
    process.exitCode = signalStatus;
    return;
  }
  process.exitCode = isWrongWord(error) ? 2 : EXIT_NEUROVISOR_FAILED;
  tellFailure(error, json);
}

const WRONG_WORDS: ReadonlySet<string> = new Set(['not_found', 'spec_invalid']);

/** A name of nothing is a wrong word too, and so is what can't be had, whoever finds that out. */
function isWrongWord(error: unknown): boolean {
  return (
    error instanceof UsageError || (error instanceof SandboxError && WRONG_WORDS.has(error.code))
  );
}

export const collect = (value: string, previous: readonly string[]): string[] => [
  ...previous,
  value,
];

export const output = (): Option =>
  new Option('-o, --output <format>', 'how results are printed').choices(['text', 'json']);

/** `--jail` */
export const jailOption = (): Option =>
  new Option(
    '--jail <mode>',
    'jail of VMMs: auto (where the host can), enforce, log (forbidden system calls are logged), off',
  ).choices(JAIL_MODES);

/** `--memory-max`, where a sandbox comes to be that stays. */
export function memoryMaxOption(): Option {
  return new Option(
    '--memory-max <size>',
    'give it more memory in steps, up to so much, when it runs short (default: no more)',
  );
}

/** `--cpus`, `--memory`, `--disk` */
export function addSizeOptions(command: Command): Command {
  return command
    .option('--cpus <n>', 'virtual CPUs (default 1)', ranges.cpus)
    .option('--memory <size>', 'guest memory, e.g. 512M or 2G (default 512M)')
    .option('--disk <size>', 'room for what the guest writes (default 2G)');
}

/** `--vmm` */
export function vmmOption(): Option {
  return new Option('--vmm <name>', 'what runs the microVM (default auto: QEMU)').choices([
    'auto',
    'firecracker',
    'qemu',
  ]);
}

export const DISK_LIMIT = [
  '--disk-limit <limits>',
  'how fast it may use its disks, reads and writes together, e.g. rate=20M,iops=500',
] as const;

/** What `run` and `create` make a sandbox with. */
export function addSandboxOptions(command: Command): Command {
  addSizeOptions(command)
    .option('--alias <ASKED=OFFERED>', 'answer for this model name with that one', collect, [])
    .option('--allow-model <name>', 'let the guest use only these models', collect, [])
    .option('--warm <module>', 'import this in the fork server before the script', collect, [])
    .option('--rate <bytes>', 'limit the channel each way, bytes per second, e.g. 5M')
    .option(...DISK_LIMIT, collect, []);
  return addNetworkOptions(command);
}

/** `--net`, `--allow-out`, `--deny-out`, `--net-limit`, `--secret` */
export function addNetworkOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--net <mode>', 'network of the guest (default none)').choices([
        'none',
        'egress',
        'open',
      ]),
    )
    .option(
      '--allow-out <rule>',
      'let the guest connect there; alone it means --net egress',
      collect,
      [],
    )
    .option('--deny-out <rule>', 'never let it connect there, whatever else allows it', collect, [])
    .option(
      '--net-limit <limits>',
      'how much of it, e.g. bytes=1G,up=5M,down=20M,connections=100,api.example.com=10M',
      collect,
      [],
    )
    .option(
      '--secret <NAME@host>',
      'let it use the value of this variable, at that host alone, without having it',
      collect,
      [],
    );
}

/** For the help of the same commands. */
export const NETWORK_HELP = `
Network: --net none: none (models are reached all the same); egress: what --allow-out names; open: the
internet, less what --deny-out names. Metadata services and private addresses are closed in all of them
(a block inside a private range opens that). Rules, each with :port, :first-last, /tcp or /udp if wanted:
  pypi.org   *.example.com   192.0.2.7   192.0.2.0/24:443   192.0.2.1:53/udp   db.example.com:5432
A name alone means TCP on ports 80 and 443. By method and path (and all below it), each request judged alone:
  'GET,HEAD https://api.example.com/v1/'   https://api.example.com/v1/chat   'WEBSOCKET https://*.example.com/live'
For that, TLS to such a name, and to no other, is read by the host, in whose certificate the guest trusts. Limits: bytes, both ways in its life, then connections are reset;
up and down, bytes per second of the guest; connections at one time; NAME=bytes with one
name (*.NAME: all below it), over ports 80 and 443. This process, or the daemon, has to run as root.

Secrets: --secret NAME@api.example.com (or NAME@a.example,b.example; NAME@host=FILE takes the value of a file). In the guest
NAME has a placeholder; in HTTPS requests to that host it is replaced by the value, which the guest never has. The host is
allowed; alone it means that nothing else is.
`;

const descriptions = new Map<Command, () => Promise<string>>();

/** A description whose making loads much: only when this command was named. */
export function describeLater(command: Command, description: () => Promise<string>): void {
  descriptions.set(command, description);
}

export async function describe(command: Command): Promise<void> {
  const description = descriptions.get(command);
  if (description !== undefined) command.description(await description());
}
