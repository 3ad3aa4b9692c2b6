/** Destinations that no sandbox may reach, whatever its policy, and where no canary can run. Pure. */

import { get, METADATA_SPELLINGS } from '../../prove/forged-requests.ts';
import { HOST_AGENT, METADATA_ADDRESSES } from '../../prove/map.ts';
import { METADATA } from '../../src/egress/net/addresses/metadata.ts';
import type { Case } from './case.ts';

/** The metadata services of all clouds, in every spelling. */
export function metadataCases(): readonly Case[] {
  const [first] = METADATA_ADDRESSES;
  const tcp = (host: string, port = 80): Case => ({
    what: `metadata: ${host} port ${port}`,
    probe: { kind: 'tcp', host, port, text: metadataGet(host.includes(':') ? `[${host}]` : host) },
    judged: { by: 'answer' },
  });
  const v6 = ['fd00:ec2::254', 'fd20:ce::254', 'fe80::a9fe:a9fe', 'fd00:c1::a9fe:a9fe'];
  return [
    ...[...METADATA_ADDRESSES, HOST_AGENT].map((address) => tcp(address)),
    tcp(first, 443),
    tcp(first, 8080),
    ...[...v6, `::ffff:${first}`, '64:ff9b::a9fe:a9fe'].map((address) => tcp(address)),
    ...METADATA_SPELLINGS.map(
      (text): Case => ({
        what: `metadata: http://${text}/`,
        probe: { kind: 'url', url: `http://${text}/` },
        judged: { by: 'answer' },
      }),
    ),
    ...METADATA.flatMap((row) => row.names).map(
      (name): Case => ({
        what: `metadata: http://${name}/`,
        probe: { kind: 'tcp', host: name, port: 80, text: metadataGet(name) },
        judged: { by: 'answer' },
      }),
    ),
  ];
}

/** Private ranges, where only the endpoint's own machines can be, and IPv6. */
export function privateCases(): readonly Case[] {
  const tcp = (what: string, host: string, port: number): Case => ({
    what: `${what}: ${host} port ${port}`,
    probe: { kind: 'tcp', host, port, text: get(host.includes(':') ? `[${host}]` : host) },
    judged: { by: 'answer' },
  });
  const ranges = ['10.0.0.1', '172.16.0.1', '192.168.0.1', '100.64.0.1'];
  return [
    ...ranges.flatMap((host) => [80, 22].map((port) => tcp('a private range', host, port))),
    tcp('IPv6', '2606:4700:4700::1111', 80),
    tcp('IPv6', '2001:4860:4860::8888', 53),
  ];
}

/** A request with the header fields that Google and Azure require. */
export function metadataGet(host: string): string {
  const fields = ['Metadata-Flavor: Google', 'Metadata: true', 'Connection: close'];
  return `GET / HTTP/1.1\r\nHost: ${host}\r\n${fields.join('\r\n')}\r\n\r\n`;
}
