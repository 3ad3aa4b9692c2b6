/** Time breakdown of a run, by phase. */
import { plain } from '../../base/text/plain.ts';
import type { UsageRecord } from '../../inference/bridge/bridge.ts';
import type { HostInfo } from '../../sandbox/contract/control.ts';
import type { StartTimings } from '../../sandbox/contract/parts.ts';
import { duration, table } from './table.ts';

export interface Phase {
  readonly name: string;
  readonly ms: number;
  /** Start and end of the phase. */
  readonly what: string;
}

/** Moments on the monotonic clock, milliseconds. */
export interface ScriptMoments {
  readonly asked: number;
  readonly started: number;
  readonly first: number | undefined;
  readonly ended: number;
}

/** The start of a sandbox. */
export interface Start {
  /** Null: the sandbox came from the pool. */
  readonly timings: StartTimings | null;
  /** From the request until ready; shown without timings. */
  readonly claimMs: number | null;
}

export function phases(
  { timings: start, claimMs }: Start,
  script: ScriptMoments,
  usage: readonly UsageRecord[],
): Phase[] {
  const list: Phase[] = [];
  const add = (name: string, ms: number | null | undefined, what: string): void => {
    if (ms !== null && ms !== undefined) list.push({ name, ms, what });
  };
  if (start === null) {
    add('claim', claimMs, "a ready sandbox from the daemon's pool");
  } else if (start.origin === 'clone') {
    add('prepare', start.prepareMs, 'directory, sockets, copies of RAM and disk');
    add('vmm', start.vmmMs, 'VMM process, state loaded, until guest code runs');
    add('agent', start.agentMs, 'guest code runs until the agent is confirmed');
  } else {
    add('prepare', start.prepareMs, 'directory, disk, sockets');
    add('vmm', start.vmmMs, 'VMM process until guest code runs');
    add('kernel', start.kernelMs, 'guest code until init (guest clock)');
    add('agent', start.agentMs, 'init until the agent is confirmed');
  }
  add('script start', script.started - script.asked, 'asked until the script runs');
  if (script.first !== undefined) {
    add('first output', script.first - script.started, 'script runs until its first byte');
  }
  const first = usage.find((record) => record.timings.ttftMs !== null);
  add('first token', first?.timings.ttftMs, 'first streamed request until its first token');
  add('script', script.ended - script.started, 'script runs until it has ended');
  return list;
}

export function timingsTable(list: readonly Phase[], { vmm, vmmReason }: Pick<HostInfo, 'vmm' | 'vmmReason'>): string {
  const rows = list.map((phase) => [phase.name, duration(phase.ms), phase.what]);
  return `${table(['phase', 'time', 'from … to'], rows)}\non ${plain(`${vmm}: ${vmmReason}`)}`;
}
