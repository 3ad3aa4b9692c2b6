/** What `inspect` tells of a sandbox beside its VM: how long it stays, what it came from, its secrets. Pure. */
import type { SandboxInfo } from '../sandbox/control.ts';
import { coarse } from './table.ts';

type Row = readonly [name: string, value: string];

/** @param now milliseconds since 1970 */
export function termRows(
  info: Pick<SandboxInfo, 'end' | 'endsAtMs' | 'onTimeout' | 'idleTimeoutMs' | 'autoResume'>,
  now: number,
): readonly Row[] {
  const { end, endsAtMs, onTimeout, idleTimeoutMs, autoResume } = info;
  if (end !== null) return [];
  const what = onTimeout === 'pause' ? 'is paused' : 'ends';
  return [
    ...(endsAtMs === null ? [] : [['time', `${what} in ${coarse(endsAtMs - now)}`] as const]),
    ...(idleTimeoutMs === null
      ? []
      : [['when idle', `is paused after ${coarse(idleTimeoutMs)}`] as const]),
    ...(autoResume ? [] : [['when paused', 'only resume lets it go on'] as const]),
  ];
}

export function birthRows({
  snapshot,
  parent,
}: Pick<SandboxInfo, 'snapshot' | 'parent'>): readonly Row[] {
  return [
    ...(snapshot === null ? [] : [['snapshot', snapshot] as const]),
    ...(parent === null ? [] : [['fork of', parent] as const]),
  ];
}

export function secretRows({ secrets }: Pick<SandboxInfo, 'secrets'>): readonly Row[] {
  return secrets.map(({ name, hosts, held }) => {
    const missing = held ? '' : '; its value has to be given again';
    return ['secret', `${name} at ${hosts.join(', ')}${missing}`] as const;
  });
}
