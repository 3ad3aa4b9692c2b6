/** `neurovisor net latency`: measures the packet latency of a sandbox. */
import { resolveHome } from '../../base/home.ts';
import { type LatencyReport, measureLatency, type PathReport } from '../../host/probes/latency.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import * as ranges from '../flags/ranges.ts';
import { bars, nanoseconds } from '../output/bars.ts';
import { viewOf } from './net.ts';

export const SECONDS_DEFAULT = 5;

const INCOMPLETE = 'too many packets were unanswered at once: samples may be missing';

const SEEN_BY = {
  'xdp-native': 'xdp-native',
  'xdp-generic': 'xdp-generic',
  tcx: 'tcx',
  clsact: 'clsact',
  'other process': 'the probes of the daemon',
} as const;

const WHAT = {
  peer: 'from a packet of the guest to its answer',
  guest: 'from a packet to the guest to its answer',
  forward: 'from a packet of the guest until it has left the host',
} as const;

/** @param word sandbox ID or a prefix of it. @throws ObserveError if this host cannot measure */
export async function netLatency(cli: Cli, word: string, flags: { readonly for?: string }): Promise<number> {
  const durationMs = ranges.latencyTime(flags.for ?? String(SECONDS_DEFAULT));
  const view = await viewOf(word);
  const stop = new AbortController();
  cli.onSignal(() => stop.abort(), null);
  cli.onEnd(() => stop.abort());
  const home = resolveHome(cli.config.home);
  const options = { home, interfaceName: view.interface, durationMs, stop: stop.signal };
  const report = await measureLatency(options);
  if (report === undefined) {
    const remedy = 'see its state with: neurovisor net ls';
    throw new UsageError(`sandbox ${view.sandbox} no longer has a network interface`, remedy);
  }
  if (cli.json) cli.printJson({ sandbox: view.sandbox, ...report });
  else cli.stdout.write(`${describe(view.sandbox, report)}\n`);
  return 0;
}

function describe(sandbox: string, report: LatencyReport): string {
  const { ingress, uplink, seconds, framesOut, framesIn, unreadable, paths } = report;
  const rows = [
    ['sandbox', sandbox],
    ['interface', `${report.interface}, seen by ${SEEN_BY[ingress]}`],
    ['uplink', uplink ?? 'none'],
    ['measured', `${seconds.toFixed(1)} s`],
    ['frames', `${framesOut} out, ${framesIn} in, ${unreadable} unreadable`],
    ...(report.mayBeIncomplete ? [['incomplete', INCOMPLETE]] : []),
  ];
  const head = rows.map(([name = '', value = '']) => `${name.padEnd(11)}${value}`);
  const parts = (['peer', 'guest', 'forward'] as const).flatMap((path) => [
    '',
    ...describePath(path, WHAT[path], paths[path]),
  ]);
  return [...head, ...parts].join('\n');
}

function describePath(path: string, what: string, report: PathReport): string[] {
  const { p50Ns, p95Ns, p99Ns, answered, unanswered, repeated, failed, skipped } = report;
  const title = `${path}: ${what}`;
  const rest = [
    ...(unanswered > 0 ? [`${unanswered} unanswered`] : []),
    ...(repeated > 0 ? [`${repeated} retransmitted`] : []),
    ...(skipped > 0 ? [`${skipped} skipped`] : []),
    ...(failed > 0 ? [`${failed} not recorded`] : []),
  ];
  const counts = [`${answered} samples`, ...rest].join(', ');
  if (p50Ns === null || p95Ns === null || p99Ns === null) return [`${title}: ${counts}`];
  const quantiles = `p50 ${nanoseconds(p50Ns)}, p95 ${nanoseconds(p95Ns)}, p99 ${nanoseconds(p99Ns)}`;
  const rows = report.buckets.map(({ fromNs, toNs, count }) => ({
    label: `  ${nanoseconds(fromNs).padStart(7)} – ${nanoseconds(toNs).padStart(7)}`,
    count,
  }));
  return [title, `  ${quantiles}: ${counts}`, ...bars(rows)];
}
