/** `neurovisor net`: the networks of sandboxes on this host. */

import { plain } from '../../base/text/plain.ts';
import { type NetworkView, viewNetworks } from '../../host/doctor/network-view.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { destinationText } from '../output/sandbox-rows.ts';
import { bytes, table } from '../output/table.ts';

export async function netList(cli: Cli): Promise<number> {
  const views = await viewNetworks();
  if (cli.json) {
    cli.printJson(views);
    return 0;
  }
  const rows = views.map((view) => [
    view.sandbox,
    view.interface,
    view.address,
    view.policy?.mode ?? '?',
    bytes(view.traffic?.bytesOut ?? 0),
    bytes(view.traffic?.bytesIn ?? 0),
    String(refusedPackets(view)),
    view.state,
  ]);
  const heads = ['sandbox', 'interface', 'address', 'policy', 'out', 'in', 'refused', 'state'];
  cli.stdout.write(`${table(heads, rows)}\n`);
  return 0;
}

/** @param word sandbox ID or a prefix of it */
export async function netInspect(cli: Cli, word: string): Promise<number> {
  const view = await viewOf(word);
  if (cli.json) cli.printJson(view);
  else cli.stdout.write(`${describeView(view)}\n`);
  return 0;
}

/** @throws UsageError */
export async function viewOf(word: string): Promise<NetworkView> {
  const found = (await viewNetworks()).filter(({ sandbox }) => sandbox.startsWith(word));
  const [view] = found;
  if (view === undefined) {
    const remedy = 'list networks with: neurovisor net ls';
    throw new UsageError(`no network of a sandbox "${word}"`, remedy);
  }
  if (found.length > 1)
    throw new UsageError(`ambiguous sandbox ID "${word}": ${found.length} match`, 'use more characters');
  return view;
}

function describeView(view: NetworkView): string {
  const { policy, traffic, gatewayUse } = view;
  const rows = [
    ['sandbox', view.sandbox],
    ['state', view.state],
    ['process', String(view.pid)],
    ['interface', view.interface],
    ['address', view.address],
    ['gateway', view.gateway],
    ['policy', policy?.mode ?? 'not recorded'],
    ...(policy?.allow ?? []).map((rule) => ['allow', rule]),
    ...(policy?.deny ?? []).map((rule) => ['deny', rule]),
    ...limitRows(view),
  ];
  if (traffic !== null) {
    rows.push(['out', `${traffic.packetsOut} packets, ${bytes(traffic.bytesOut)}`]);
    rows.push(['in', `${traffic.packetsIn} packets, ${bytes(traffic.bytesIn)}`]);
    for (const [reason, packets] of Object.entries(traffic.refused))
      rows.push(['refused', `${packets} packets: ${reason}`]);
  }
  for (const [reason, count] of Object.entries(gatewayUse?.refused ?? {}))
    rows.push(['gateway', `refused ${count}: ${reason}`]);
  return rows.map(([name = '', value = '']) => `${name.padEnd(11)}${plain(value)}`).join('\n');
}

function limitRows({ limits, bytesLeft, gatewayUse }: NetworkView): string[][] {
  const { bytesMax, uploadBytesPerSecond: up, downloadBytesPerSecond: down } = limits ?? {};
  const most = limits?.connectionsMax;
  const left = bytesLeft === null ? '' : `, ${bytes(bytesLeft)} left`;
  return [
    ...(bytesMax === undefined ? [] : [['limit', `${bytes(bytesMax)} total${left}`]]),
    ...(up === undefined ? [] : [['limit', `${bytes(up)}/s out`]]),
    ...(down === undefined ? [] : [['limit', `${bytes(down)}/s in`]]),
    ...(most === undefined ? [] : [['limit', `${most} connections`]]),
    ...(limits?.destinations ?? []).map((limit) => {
      const use = gatewayUse?.destinations.find(({ name }) => name === limit.name);
      return ['limit', destinationText(limit, use?.bytesUsed)];
    }),
  ];
}

function refusedPackets({ traffic }: NetworkView): number {
  return Object.values(traffic?.refused ?? {}).reduce((sum, packets) => sum + packets, 0);
}
