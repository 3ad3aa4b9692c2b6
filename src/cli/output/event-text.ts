/** Formats events of a sandbox for people. Pure. */

import { plain } from '../../base/text/plain.ts';
import type { SandboxEventBody } from '../../sandbox/contract/events.ts';
import { diskFullText } from '../../sandbox/contract/events.ts';
import type { OomMark } from '../../sandbox/contract/memory-events.ts';
import { bytes } from './table.ts';

export function eventText(event: SandboxEventBody): string {
  switch (event.type) {
    case 'pressure': {
      const stalls = `some ${event.some} %, full ${event.full} % of the last 10 s`;
      return `${event.source}: ${amount(event)}; stalled: ${stalls}`;
    }
    case 'near_oom':
      return `${event.source}: ${amount(event)}; OOM kill is near`;
    case 'oom':
      return `${event.source}: killed ${victimText(event)}`;
    case 'security':
      return `${event.source}: ${plain(event.detail)}`;
    case 'disk_full':
      return `${plain(diskFullText(event))}; sandbox paused: free space, then resume it`;
    case 'disk_error':
      return `I/O error on ${plain(event.path)}; programs in the guest see EIO`;
    case 'dropped':
      return `${event.count} events dropped`;
    case 'action': {
      const how = event.ok ? 'done' : 'failed';
      return `${event.action}: ${how}${event.detail === '' ? '' : `: ${plain(event.detail)}`}`;
    }
    case 'resized': {
      const why = event.by === 'pressure' ? 'memory pressure' : 'requested';
      return `from ${event.fromMib} to ${event.toMib} MiB in ${event.durationMs} ms: ${why}`;
    }
    case 'package': {
      const what = event.file === '' ? event.name : event.file;
      const from = event.cached ? ' from the cache' : '';
      const size = event.bytes === 0 ? '' : `, ${bytes(event.bytes)}${from}`;
      return `${event.ecosystem}: ${plain(what)}: ${event.outcome}${size}`;
    }
    case 'adopted': {
      const gap = event.gapMs === null ? '' : ` after ${event.gapMs} ms`;
      return `the daemon was restarted${gap}; connections to programs ended`;
    }
    case 'end': {
      const { cause, detail } = event.end;
      return detail === '' ? cause : `${cause}: ${plain(detail)}`;
    }
  }
}

export function amount(event: { readonly memoryBytes: number; readonly limitBytes: number }): string {
  const of = event.limitBytes === 0 ? '' : ` of ${bytes(event.limitBytes)}`;
  return `${bytes(event.memoryBytes)}${of} in use`;
}

export function victimText({ victim, detail }: Pick<OomMark, 'victim' | 'detail'>): string {
  if (victim === null) return plain(detail);
  return `${plain(victim.name)} (pid ${victim.pid}, ${bytes(victim.rssBytes)})`;
}
