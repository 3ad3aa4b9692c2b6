/** The longest turns of the daemon's event loop, which serves everybody. Pure. */
import type { HostInfo } from '../../sandbox/contract/control.ts';
import type { Finding } from './check.ts';

const SHOWN_MAX = 3;
/** Less than this part of a turn on a processor: the host was busy. */
const OWN_RATIO = 0.5;

/** @param host as the operator sees it; null: no daemon runs */
export function checkTurns(host: Pick<HostInfo, 'longTurns'> | null): Finding {
  if (host === null) return { verdict: 'unused', detail: 'no daemon runs', remedy: null };
  const { longTurns } = host;
  if (longTurns.length === 0) {
    return { verdict: 'ok', detail: 'no turn of the daemon took over 50 ms in the last day', remedy: null };
  }
  const shown = longTurns.slice(0, SHOWN_MAX).map(({ atMs, ms, cpuMs, place }) => {
    const at = new Date(atMs).toISOString().slice(0, 19);
    return `${ms} ms (processor ${cpuMs} ms) at ${at}Z in ${place ?? 'an unknown place'}`;
  });
  const isOwn = longTurns.some(({ ms, cpuMs }) => cpuMs > ms * OWN_RATIO);
  return {
    verdict: 'limited',
    detail: `the daemon served nobody for ${shown.join('; ')}`,
    remedy: isOwn
      ? 'report these places in an issue: no code should take the event loop for so long'
      : 'the daemon waited for a processor or for memory: run fewer sandboxes, or less beside it',
  };
}
