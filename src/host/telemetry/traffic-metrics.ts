/** Metrics of what guests send and get: over their channels to the host, and over their network cards. */
import { collected, type Metric, single } from '../../base/metrics.ts';
import type { Totals } from './totals.ts';

const DIRECTIONS = {
  guest_to_host: ['bytesGuestToHost', 'throttledMsGuestToHost'],
  host_to_guest: ['bytesHostToGuest', 'throttledMsHostToGuest'],
} as const;

/** Begins the names of totals of refused packets, each followed by a reason. */
export const REFUSED = 'refused ';

export function channelMetrics(totals: Totals, open: () => number): readonly Metric[] {
  const total = (name: string, help: string, key: string) =>
    single('counter', { name, help, unit: null }, () => totals.get(key));
  const labels = ['direction'];
  return [
    collected(
      'counter',
      {
        name: 'neurovisor_channel_bytes_total',
        unit: 'bytes',
        labels,
        help: 'Payload on the channels between host and guests.',
      },
      () => Object.entries(DIRECTIONS).map(([direction, [bytes]]) => [{ direction }, totals.get(bytes)]),
    ),
    collected(
      'counter',
      {
        name: 'neurovisor_channel_throttled_seconds_total',
        unit: 'seconds',
        labels,
        help: 'Time that channels were throttled by their rate limits.',
      },
      () =>
        Object.entries(DIRECTIONS).map(([direction, [, throttled]]) => [{ direction }, totals.get(throttled) / 1000]),
    ),
    total(
      'neurovisor_channel_connections_total',
      'Connections opened on the channels, in both directions.',
      'connectionsOpened',
    ),
    total(
      'neurovisor_channel_connections_refused_total',
      'Connections refused by a limit, or without a listener.',
      'connectionsRefused',
    ),
    total(
      'neurovisor_channel_protocol_errors_total',
      'Packets from guests that violated the protocol.',
      'protocolErrors',
    ),
    single(
      'gauge',
      { name: 'neurovisor_channel_connections', help: 'Open connections on the channels.', unit: null },
      open,
    ),
  ];
}

export function networkMetrics(totals: Totals, leases: () => number): readonly Metric[] {
  const both = (name: string, help: string, unit: 'bytes' | null, out: string, back: string) =>
    collected('counter', { name, help, unit, labels: ['direction'] }, () => [
      [{ direction: 'out' }, totals.get(out)],
      [{ direction: 'in' }, totals.get(back)],
    ]);
  return [
    both('neurovisor_network_bytes_total', 'Bytes of guests with a network card.', 'bytes', 'bytesOut', 'bytesIn'),
    both('neurovisor_network_packets_total', 'Packets of guests with a network card.', null, 'packetsOut', 'packetsIn'),
    collected(
      'counter',
      {
        name: 'neurovisor_network_refused_packets_total',
        help: 'Dropped packets of guests, by reason.',
        unit: null,
        labels: ['reason'],
      },
      () =>
        totals
          .names()
          .filter((name) => name.startsWith(REFUSED))
          .map((name) => [{ reason: name.slice(REFUSED.length) }, totals.get(name)]),
    ),
    single('gauge', { name: 'neurovisor_network_leases', help: 'Network cards of guests.', unit: null }, leases),
  ];
}
