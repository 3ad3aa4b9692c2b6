/** `neurovisor events`, `logs`, `inspect`: the events, output and details of one sandbox. */

import { once } from 'node:events';
import { systemClock } from '../../base/clock.ts';
import { plain, plainJson, plainLines } from '../../base/text/plain.ts';
import type { ControlPlane, SandboxInfo } from '../../sandbox/contract/control.ts';
import type { ViolationMark } from '../../sandbox/contract/ending.ts';
import type { TimedEvent } from '../../sandbox/contract/events.ts';
import type { PressureMark } from '../../sandbox/contract/memory-events.ts';
import type { Cli } from '../cli.ts';
import { sandboxId } from '../flags/pick.ts';
import { amount, eventText, victimText } from '../output/event-text.ts';
import { LogLines } from '../output/log-lines.ts';
import {
  budgetRows,
  diskRows,
  imageRows,
  lifetimeRows,
  memoryText,
  networkRows,
  provenanceRows,
  secretRows,
  statusText,
} from '../output/sandbox-rows.ts';
import { bytes, coarse } from '../output/table.ts';

export interface EventsFlags {
  readonly follow?: boolean;
}

/** Prints events until the sandbox ends or Ctrl-C. JSON: one event per line. */
export async function events(cli: Cli, control: ControlPlane, text: string, flags: EventsFlags): Promise<number> {
  const id = await sandboxId(control, text);
  const signal = cli.cancelled;
  for await (const event of control.events(id, { follow: flags.follow === true, signal })) {
    cli.stdout.write(`${cli.json ? plainJson(event) : eventLine(event)}\n`);
  }
  // Ctrl-C is the normal way to stop.
  return 0;
}

export function eventLine(event: TimedEvent): string {
  return `${new Date(event.atMs).toISOString()}  ${event.type.padEnd(8)}  ${eventText(event)}`;
}

export interface LogsFlags {
  readonly vmmLog?: boolean;
  readonly follow?: boolean;
  /** Lines; of a program only. */
  readonly tail?: number;
}

/** Prints the console; on a terminal, control characters are replaced. */
export async function logs(cli: Cli, control: ControlPlane, text: string, flags: LogsFlags): Promise<number> {
  const id = await sandboxId(control, text);
  if (flags.follow === true) return await follow(cli, control, id, flags.vmmLog === true);
  const kept = await control.logs(id);
  if (cli.json) {
    cli.printJson(kept);
    return 0;
  }
  const chosen = flags.vmmLog === true ? kept.vmm : kept.console;
  const shown = cli.stdout.isTTY ? plainLines(chosen) : chosen;
  cli.stdout.write(shown === '' || shown.endsWith('\n') ? shown : `${shown}\n`);
  return 0;
}

/** Prints output until the sandbox ends or Ctrl-C. JSON: one chunk per line. */
async function follow(cli: Cli, control: ControlPlane, id: string, onlyVmm: boolean): Promise<number> {
  const lines = new LogLines({ onlyVmm, plain: cli.stdout.isTTY });
  const print = async (shown: string): Promise<void> => {
    // With a slow reader the daemon skips output, so that this process does not grow.
    if (shown !== '' && !cli.stdout.write(shown)) await once(cli.stdout, 'drain');
  };
  for await (const chunk of control.followLogs(id, cli.cancelled)) {
    const { source, skippedBytes } = chunk;
    if (onlyVmm && source !== 'vmm') continue;
    if (cli.json) {
      await print(`${plainJson(chunk)}\n`);
      continue;
    }
    if (skippedBytes > 0) {
      const what = `${bytes(skippedBytes)} of the ${source === 'vmm' ? 'VMM log' : 'console'}`;
      cli.stderr.write(`neurovisor: skipped ${what}: output too fast\n`);
    }
    await print(lines.add(chunk));
  }
  if (!cli.json) await print(lines.end());
  return 0;
}

export async function inspect(cli: Cli, control: ControlPlane, text: string): Promise<number> {
  const info = await control.get(await sandboxId(control, text));
  if (cli.json) cli.printJson(info);
  else cli.stdout.write(`${inspectText(info, systemClock.wall())}\n`);
  return 0;
}

/** @param now milliseconds since 1970 */
export function inspectText(info: SandboxInfo, now: number): string {
  const { end } = info;
  const rows: (readonly [string, string])[] = [
    ['id', info.id],
    ...(info.name === null ? [] : [['name', info.name] as const]),
    ['status', statusText({ ...info, end: null })],
    ['age', coarse(now - info.createdAtMs)],
    ['size', `${info.cpus} CPUs, ${memoryText(info)}, disk ${info.diskMib} MiB`],
    ...imageRows(info.image),
    ...diskRows(info.diskLimits),
    ...budgetRows(info, now),
    ['origin', info.origin],
    ['accelerator', info.accelerator],
    ...(info.sharesMemory === null
      ? []
      : [['memory', info.sharesMemory ? 'shared until it is changed' : 'its own'] as const]),
    ...provenanceRows(info),
    ...lifetimeRows(info, now),
    ...modelRows(info.models),
    ...secretRows(info),
    ['near OOM', info.onMemoryPressure],
    ...Object.entries(info.metadata).map(([key, value]) => ['label', `${key}=${value}`] as const),
    ...networkRows(info.network),
  ];
  if (end !== null) rows.push(...endRows(end, now));
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${plain(value)}`).join('\n');
}

function modelRows({ allow, allowHosted }: SandboxInfo['models']): (readonly [string, string])[] {
  return [
    ...(allow === null ? [] : [['models', allow.join(', ') || 'none'] as const]),
    ['hosted models', allowHosted.join(', ') || 'none'],
  ];
}

function endRows(
  { cause, detail, atMs, evidence }: NonNullable<SandboxInfo['end']>,
  now: number,
): (readonly [string, string])[] {
  const { exitStatus, signal, lastPressure, lastOom, lastViolation } = evidence;
  const vmm = signal ?? (exitStatus === null ? null : `status ${exitStatus}`);
  return [
    ['ended', `${ago(atMs, now)}, ${detail === '' ? cause : `${cause}: ${detail}`}`],
    ...(vmm === null ? [] : [['VMM exit', vmm] as const]),
    ...(lastPressure === null ? [] : [['last pressure', pressureText(lastPressure, now)] as const]),
    ...(lastOom === null
      ? []
      : [['last OOM kill', `${ago(lastOom.atMs, now)}, ${lastOom.source}: ${victimText(lastOom)}`] as const]),
    ...(lastViolation === null ? [] : [['seccomp', violationText(lastViolation, now)] as const]),
  ];
}

function pressureText(mark: PressureMark, now: number): string {
  return `${ago(mark.atMs, now)}, ${mark.source}: ${amount(mark)}`;
}

function violationText(mark: ViolationMark, now: number): string {
  const { count, name, syscall, address, action, atMs } = mark;
  const call = name === null ? `${syscall}` : `${name} (${syscall})`;
  const where = address === null ? '' : ` at ${address}`;
  return `${count} ${action} by the filter, last ${ago(atMs, now)}: ${call}${where}`;
}

const ago = (atMs: number, now: number): string => `${coarse(now - atMs)} ago`;
