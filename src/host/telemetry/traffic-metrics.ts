/** Metrics of what guests send and get: over their channels to the host, and over their network cards. */
import { gauge, type Metric, total, totalBy } from '../../base/metrics.ts';
import type { Totals } from './totals.ts';

const DIRECTIONS = {
  guest_to_host: ['bytesGuestToHost', 'throttledMsGuestToHost'],
  host_to_guest: ['bytesHostToGuest', 'throttledMsHostToGuest'],
} as const;

/** Begins the names of totals of refused packets, each followed by a reason. */
export const REFUSED = 'refused ';

export function channelMetrics(totals: Totals, open: () => number): readonly Metric[] {
  const labels = ['direction'];
  return [
    totalBy('neurovisor_channel_bytes_total', 'Payload on the channels between host and guests.', labels, () =>
      Object.entries(DIRECTIONS).map(([direction, [bytes]]) => [{ direction }, totals.get(bytes)]),
    ),
    totalBy('neurovisor_channel_throttled_seconds_total', 'Time that rate limits throttled channels.', labels, () =>
      Object.entries(DIRECTIONS).map(([direction, [, throttled]]) => [{ direction }, totals.get(throttled) / 1000]),
    ),
    total('neurovisor_channel_connections_total', 'Connections opened on the channels.', () =>
      totals.get('connectionsOpened'),
    ),
    total(
      'neurovisor_channel_connections_refused_total',
      'Connections refused by a limit, or without a listener.',
      () => totals.get('connectionsRefused'),
    ),
    total('neurovisor_channel_protocol_errors_total', 'Packets from guests that violated the protocol.', () =>
      totals.get('protocolErrors'),
    ),
    gauge('neurovisor_channel_connections', 'Open connections on the channels.', open),
  ];
}

export function networkMetrics(totals: Totals, leases: () => number): readonly Metric[] {
  const both = (name: string, help: string, out: string, back: string) =>
    totalBy(name, help, ['direction'], () => [
      [{ direction: 'out' }, totals.get(out)],
      [{ direction: 'in' }, totals.get(back)],
    ]);
  return [
    both('neurovisor_network_bytes_total', 'Bytes of guests with a network card.', 'bytesOut', 'bytesIn'),
    both('neurovisor_network_packets_total', 'Packets of guests with a network card.', 'packetsOut', 'packetsIn'),
    totalBy('neurovisor_network_refused_packets_total', 'Dropped packets of guests.', ['reason'], () =>
      totals
        .names()
        .filter((name) => name.startsWith(REFUSED))
        .map((name) => [{ reason: name.slice(REFUSED.length) }, totals.get(name)]),
    ),
    gauge('neurovisor_network_leases', 'Network cards of guests.', leases),
  ];
}
