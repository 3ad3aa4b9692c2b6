/** `neurovisor events`, `logs`, `inspect`: what happens to one sandbox, what it said, how it ended. */
import { systemClock } from '../../base/clock.ts';
import type { ControlPlane, SandboxInfo } from '../../sandbox/control.ts';
import type { TimedEvent } from '../../sandbox/event-journal.ts';
import type { OomMark, PressureMark } from '../../sandbox/memory-watch.ts';
import type { Cli } from '../cli.ts';
import { sandboxId } from '../pick.ts';
import { birthRows, secretRows, termRows } from '../sandbox-rows.ts';
import { bytes, coarse } from '../table.ts';

export interface EventsFlags {
  /** False with `--no-follow`. */
  readonly follow?: boolean;
}

/** Until the sandbox ends, or Ctrl-C. JSON: one event a line. */
export async function events(
  cli: Cli,
  control: ControlPlane,
  text: string,
  flags: EventsFlags,
): Promise<number> {
  const id = await sandboxId(control, text);
  const signal = cli.cancelled;
  for await (const event of control.events(id, { follow: flags.follow !== false, signal })) {
    cli.stdout.write(`${cli.json ? JSON.stringify(event) : eventLine(event)}\n`);
  }
  // Ctrl-C is how one leaves.
  return 0;
}

export function eventLine(event: TimedEvent): string {
  return `${new Date(event.atMs).toISOString()}  ${event.type.padEnd(8)}  ${eventText(event)}`;
}

function eventText(event: TimedEvent): string {
  switch (event.type) {
    case 'pressure': {
      const stalls = `some ${event.some} %, all ${event.full} % of the last 10 s`;
      return `${event.source}: ${amount(event)}; stood still: ${stalls}`;
    }
    case 'near_oom':
      return `${event.source}: ${amount(event)}; a kill is near`;
    case 'oom':
      return `${event.source}: killed ${victimText(event)}`;
    case 'dropped':
      return `${event.count} events were too many, and are not told`;
    case 'action': {
      const how = event.ok ? 'done' : 'failed';
      return `${event.action}: ${how}${event.detail === '' ? '' : `: ${plain(event.detail)}`}`;
    }
    case 'end': {
      const { cause, detail } = event.end;
      return detail === '' ? cause : `${cause}: ${plain(detail)}`;
    }
  }
}

function amount(event: { readonly memoryBytes: number; readonly limitBytes: number }): string {
  const of = event.limitBytes === 0 ? '' : ` of ${bytes(event.limitBytes)}`;
  return `${bytes(event.memoryBytes)}${of} in use`;
}

function victimText({ victim, detail }: Pick<OomMark, 'victim' | 'detail'>): string {
  if (victim === null) return plain(detail);
  return `${plain(victim.name)} (pid ${victim.pid}, ${bytes(victim.rssBytes)})`;
}

export interface LogsFlags {
  readonly vmm?: boolean;
}

/** The console as it is, but on a terminal nothing of it steers that. */
export async function logs(
  cli: Cli,
  control: ControlPlane,
  text: string,
  flags: LogsFlags,
): Promise<number> {
  const kept = await control.logs(await sandboxId(control, text));
  if (cli.json) {
    cli.printJson(kept);
    return 0;
  }
  const chosen = flags.vmm === true ? kept.vmm : kept.console;
  const shown = cli.stdout.isTTY ? plainLines(chosen) : chosen;
  cli.stdout.write(shown === '' || shown.endsWith('\n') ? shown : `${shown}\n`);
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
    ['status', info.pausedTo === null ? info.status : `${info.status} (${info.pausedTo})`],
    ['age', coarse(now - info.createdAtMs)],
    ['size', `${info.cpus} CPUs, ${info.memoryMib} MiB, disk ${info.diskMib} MiB`],
    ['origin', info.origin],
    ['runs on', info.accelerator],
    ...birthRows(info),
    ...termRows(info, now),
    ...secretRows(info),
    ['near out of memory', info.onMemoryPressure],
    ...Object.entries(info.metadata).map(([key, value]) => ['label', `${key}=${value}`] as const),
  ];
  if (end !== null) rows.push(...endRows(end, now));
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${plain(value)}`).join('\n');
}

function endRows(
  { cause, detail, atMs, evidence }: NonNullable<SandboxInfo['end']>,
  now: number,
): (readonly [string, string])[] {
  const { exitStatus, signal, lastPressure, lastOom } = evidence;
  const vmm = signal ?? (exitStatus === null ? null : `status ${exitStatus}`);
  return [
    ['ended', `${ago(atMs, now)}, ${detail === '' ? cause : `${cause}: ${detail}`}`],
    ...(vmm === null ? [] : [['VMM ended by', vmm] as const]),
    ...(lastPressure === null ? [] : [['last pressure', pressureText(lastPressure, now)] as const]),
    ...(lastOom === null
      ? []
      : [
          [
            'last kill',
            `${ago(lastOom.atMs, now)}, ${lastOom.source}: ${victimText(lastOom)}`,
          ] as const,
        ]),
  ];
}

function pressureText(mark: PressureMark, now: number): string {
  return `${ago(mark.atMs, now)}, ${mark.source}: ${amount(mark)}`;
}

const ago = (atMs: number, now: number): string => `${coarse(now - atMs)} ago`;

/** Words of a guest, fit for one line of a terminal. */
function plain(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}]/gu, (char) => (char === '\n' ? ' ' : '?'));
}

function plainLines(text: string): string {
  return text
    .replaceAll('\r\n', '\n')
    .replaceAll(/[\p{Cc}\p{Cf}]/gu, (char) => (char === '\n' || char === '\t' ? char : '?'));
}
