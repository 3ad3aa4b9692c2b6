/** Events of a sandbox as lines for people. Pure. */

import type { SandboxEventBody } from '../../sandbox/events.ts';
import { diskFullText } from '../../sandbox/events.ts';
import type { OomMark } from '../../sandbox/memory-events.ts';
import { bytes } from './table.ts';

export function eventText(event: SandboxEventBody): string {
  switch (event.type) {
    case 'pressure': {
      const stalls = `some ${event.some} %, all ${event.full} % of the last 10 s`;
      return `${event.source}: ${amount(event)}; stood still: ${stalls}`;
    }
    case 'near_oom':
      return `${event.source}: ${amount(event)}; a kill is near`;
    case 'oom':
      return `${event.source}: killed ${victimText(event)}`;
    case 'security':
      return `${event.source}: ${plain(event.detail)}`;
    case 'disk_full':
      return `${plain(diskFullText(event))}; it is paused: free space there, then resume it`;
    case 'disk_error':
      return `${plain(event.path)} can't be read or written; its programs see EIO`;
    case 'dropped':
      return `${event.count} events were too many, and are not told`;
    case 'action': {
      const how = event.ok ? 'done' : 'failed';
      return `${event.action}: ${how}${event.detail === '' ? '' : `: ${plain(event.detail)}`}`;
    }
    case 'resized': {
      const why = event.by === 'pressure' ? 'it was short of memory' : 'its owner said so';
      return `from ${event.fromMib} to ${event.toMib} MiB in ${event.durationMs} ms: ${why}`;
    }
    case 'end': {
      const { cause, detail } = event.end;
      return detail === '' ? cause : `${cause}: ${plain(detail)}`;
    }
  }
}

export function amount(event: {
  readonly memoryBytes: number;
  readonly limitBytes: number;
}): string {
  const of = event.limitBytes === 0 ? '' : ` of ${bytes(event.limitBytes)}`;
  return `${bytes(event.memoryBytes)}${of} in use`;
}

export function victimText({ victim, detail }: Pick<OomMark, 'victim' | 'detail'>): string {
  if (victim === null) return plain(detail);
  return `${plain(victim.name)} (pid ${victim.pid}, ${bytes(victim.rssBytes)})`;
}

/** Words of a guest, fit for one line of a terminal. */
export function plain(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}]/gu, (char) => (char === '\n' ? ' ' : '?'));
}
