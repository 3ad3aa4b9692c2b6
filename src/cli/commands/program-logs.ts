/** `neurovisor logs ID PID` and `wait`: what a program wrote, and its end, without taking its streams. */
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { outputText } from '../../base/text/output-text.ts';
import type { OutputOffsets } from '../../machine/guest/guest.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { sandboxId } from '../flags/pick.ts';
import * as ranges from '../flags/ranges.ts';
import { endAfterLoss, statusOfEnd } from '../output/loss.ts';
import { exitStatus } from '../output/program-streams.ts';
import { bytes } from '../output/table.ts';
import type { LogsFlags } from './history.ts';

const STREAMS = ['stdout', 'stderr'] as const;
const BEGIN: OutputOffsets = { stdout: 0, stderr: 0 };
const NEWLINE = 0x0a;

/** @throws UsageError */
export function checkLogs(cli: Cli, pid: string | undefined, flags: LogsFlags): void {
  if (pid === undefined) {
    if (flags.tail !== undefined) throw new UsageError('--tail needs a PID', 'use: neurovisor logs ID | tail');
    return;
  }
  ranges.pid(pid);
  if (flags.vmmLog === true) throw new UsageError('--vmm-log excludes a PID', 'omit one of them');
  if (flags.follow === true && cli.json) throw new UsageError('-f excludes -o json with a PID', 'omit one of them');
}

/** Prints the kept output of each stream; `follow`: also what comes, until the program ends or Ctrl-C. */
export async function programLogs(
  cli: Cli,
  control: ControlPlane,
  text: string,
  program: string,
  { follow, tail }: LogsFlags,
): Promise<number> {
  const pid = ranges.pid(program);
  const id = await sandboxId(control, text);
  if (follow === true && tail === undefined) return await followProgram(cli, control, { id, pid }, BEGIN);
  const kept = await (await control.guest(id)).keptOutput(pid, BEGIN, cli.cancelled);
  const shown = { stdout: lastLines(kept.stdout, tail), stderr: lastLines(kept.stderr, tail) };
  if (cli.json) {
    const [stdout, stderr] = STREAMS.map((name) => outputText(shown[name], false));
    const encoding = { stdout: stdout?.encoding, stderr: stderr?.encoding };
    cli.printJson({ sandbox: id, pid, from: kept.from, stdout: stdout?.text, stderr: stderr?.text, encoding });
    return 0;
  }
  for (const name of STREAMS) {
    if (shown[name].length === kept[name].length) noteGap(cli, name, kept.from[name]);
    await write(cli, name, shown[name]);
  }
  if (follow !== true) return 0;
  return await followProgram(cli, control, { id, pid }, kept.to);
}

async function followProgram(
  cli: Cli,
  control: ControlPlane,
  { id, pid }: { readonly id: string; readonly pid: number },
  begin: OutputOffsets,
): Promise<number> {
  const guest = await control.guest(id);
  const at = { ...begin };
  for (;;) {
    const before = at.stdout + at.stderr;
    const output = await guest.logs(pid, at, cli.cancelled);
    const pass = async (name: (typeof STREAMS)[number], stream: Readable): Promise<void> => {
      const from = output.from?.[name] ?? at[name];
      noteGap(cli, name, from - at[name]);
      at[name] = from;
      for await (const chunk of stream as AsyncIterable<Buffer>) {
        at[name] += chunk.length;
        await write(cli, name, chunk);
      }
    };
    const passing = STREAMS.map((name) =>
      pass(name, output[name]).catch((error: unknown) => ignore(error, 'the exit tells why')),
    );
    const lost = await output.exit.then(
      () => null,
      (error: unknown) => error,
    );
    await Promise.all(passing);
    // Ctrl-C is the normal way to stop.
    if (lost === null || cli.cancelled.aborted) return 0;
    // The guest drops a reader that falls behind: it continues at its offset.
    const isBehind = errorCode(lost) === 'connection_lost' && at.stdout + at.stderr > before;
    if (!isBehind || (await control.get(id)).status !== 'running') {
      return statusOfEnd(cli, await endAfterLoss(cli, control, id, lost), 'the program');
    }
  }
}

/** Waits for the end of a program: prints its exit status, and returns it. */
export async function wait(cli: Cli, control: ControlPlane, text: string, program: string): Promise<number> {
  const pid = ranges.pid(program);
  const id = await sandboxId(control, text);
  const output = await (await control.guest(id)).logs(pid, null, cli.cancelled);
  let lost: unknown;
  const exit = await output.exit.catch((error: unknown) => {
    lost = error;
    return null;
  });
  if (exit === null) return statusOfEnd(cli, await endAfterLoss(cli, control, id, lost), 'the program');
  const status = exitStatus(cli, exit, 'the program');
  if (cli.json) cli.printJson({ sandbox: id, pid, exit });
  else cli.stdout.write(`${status}\n`);
  return status;
}

function noteGap(cli: Cli, name: string, missing: number): void {
  if (missing > 0 && !cli.json) {
    cli.stderr.write(`neurovisor: ${bytes(missing)} of ${name} are no longer kept\n`);
  }
}

async function write(cli: Cli, name: (typeof STREAMS)[number], chunk: Buffer): Promise<void> {
  if (!cli[name].write(chunk)) await once(cli[name], 'drain', { signal: cli.cancelled });
}

function lastLines(content: Buffer, lines: number | undefined): Buffer {
  if (lines === undefined) return content;
  let at = content.length;
  if (content.at(-1) === NEWLINE) at -= 1;
  for (let left = lines; left > 0; left -= 1) {
    at = at > 0 ? content.lastIndexOf(NEWLINE, at - 1) : -1;
    if (at < 0) return content;
  }
  return lines === 0 ? Buffer.alloc(0) : content.subarray(at + 1);
}
