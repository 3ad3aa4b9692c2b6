/** The cases without a canary: public names, judged by their answers. Pure. */

import { get } from '../../prove/forged-requests.ts';
import { DNS_TYPE } from '../../src/egress/net/dns/message.ts';
import type { Case } from './case.ts';
import type { Probe } from './probe.ts';

export interface PublicNames {
  /** Public web sites with HTTP and TLS. */
  readonly allowed: string;
  readonly denied: string;
  /** A public DNS resolver with UDP, TCP and TLS. */
  readonly resolver: string;
}

/** @param address the address of the denied name */
export function aloneCases(names: PublicNames, address: string): readonly Case[] {
  const { allowed, denied, resolver } = names;
  const answer = (what: string, probe: Probe): Case => ({ what, probe, judged: { by: 'answer' } });
  const question = (what: string, probe: Probe): Case => ({
    what,
    probe,
    judged: { by: 'question', isArrival: () => false },
  });
  const dns = { kind: 'dns', name: denied, type: DNS_TYPE.A } as const;
  const tls = (host: string): Probe => ({ kind: 'tls', host, port: 443, servername: denied, text: get(denied) });
  return [
    question('a name that no rule allows', { kind: 'name', name: denied }),
    question('the same, of another resolver by UDP', { ...dns, server: resolver, transport: 'udp' }),
    question('the same, of another resolver by TCP', { ...dns, server: resolver, transport: 'tcp' }),
    question('DNS over TLS', { ...dns, server: resolver, transport: 'tls' }),
    answer('HTTP', { kind: 'tcp', host: address, port: 80, text: get(denied) }),
    answer('an address without a name', { kind: 'tcp', host: address, port: 80, text: get(address) }),
    answer('TLS', tls(address)),
    answer('SNI is another name', tls(allowed)),
  ];
}

/** The cases of a sandbox that may reach nothing. @param who the prefix of each row */
export function aloneClosedCases({ denied, resolver }: PublicNames, address: string, who: string): readonly Case[] {
  const dns = { kind: 'dns', name: denied, type: DNS_TYPE.A, transport: 'udp' } as const;
  return [
    {
      what: `${who}: HTTP`,
      probe: { kind: 'tcp', host: address, port: 80, text: get(denied) },
      judged: { by: 'answer' },
    },
    {
      what: `${who}: DNS of another resolver`,
      probe: { ...dns, server: resolver },
      judged: { by: 'question', isArrival: () => false },
    },
    {
      what: `${who}: a name`,
      probe: { kind: 'name', name: denied },
      judged: { by: 'question', isArrival: () => false },
    },
  ];
}
