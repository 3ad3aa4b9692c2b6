/**
 * The network benchmark in its own network namespace, so that the machine's network is untouched. Prints one line of
 * JSON, `NetworkSamples`. Argument: rounds.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { openHostNetwork } from '../../src/egress/net/lease/host-network.ts';
import type { HostNetwork, NetworkLease } from '../../src/egress/net/lease/lease.ts';
import { Links } from '../../src/egress/net/link/links.ts';
import { parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import { ForwardingHost } from './forwarding.ts';
import { HandMadeNetwork } from './hand-made.ts';

/** Milliseconds. */
interface MakeAndRemove {
  readonly make: number[];
  readonly remove: number[];
}

export interface NetworkSamples {
  readonly alone: MakeAndRemove;
  readonly byHand: MakeAndRemove;
  /** While `MANY` others exist. */
  readonly amongMany: MakeAndRemove;
  readonly amongManyByHand: MakeAndRemove;
  /** `MANY` at once: from the call for all until each exists or is gone. */
  readonly atOnce: MakeAndRemove;
  /** For one sandbox among `MANY`. */
  readonly traffic: number[];
  /** Microseconds per packet of `packetBytes`, from the guest's TAP to the host's uplink. */
  readonly forward: readonly { readonly packetBytes: number; readonly ours: number[]; readonly acceptAll: number[] }[];
}

const MANY = 200;
const PACKET_BYTES = [100, 1400];

const rounds = Number(process.argv[2]);
const policy = parsePolicy({ mode: 'allowlist', allow: ['pypi.org', '*.pythonhosted.org', '198.51.100.0/24:443'] });
const samples: NetworkSamples = {
  alone: { make: [], remove: [] },
  byHand: { make: [], remove: [] },
  amongMany: { make: [], remove: [] },
  amongManyByHand: { make: [], remove: [] },
  atOnce: { make: [], remove: [] },
  traffic: [],
  forward: PACKET_BYTES.map((packetBytes) => ({ packetBytes, ours: [], acceptAll: [] })),
};
const stateDir = await mkdtemp(join(tmpdir(), 'nv-bench-net-'));
const byHand = new HandMadeNetwork(join(stateDir, 'rules.nft'));

async function timed<T>(into: number[] | null, work: () => Promise<T> | T): Promise<T> {
  const begun = systemClock.now();
  const result = await work();
  into?.push(systemClock.now() - begun);
  return result;
}

const lease = (network: HostNetwork): Promise<NetworkLease> => network.lease({ sandboxId: newSandboxId(), policy });

/** Alternates, so that both see the same disturbances. The first of each warms up and is not counted. */
async function oneByOne(network: HostNetwork, ours: MakeAndRemove, theirs: MakeAndRemove) {
  for (let round = 0; round <= rounds; round += 1) {
    const [own, other] = round === 0 ? [null, null] : [ours, theirs];
    const one = await timed(own?.make ?? null, () => lease(network));
    await timed(own?.remove ?? null, () => one.release());
    await timed(other?.make ?? null, () => byHand.make());
    await timed(other?.remove ?? null, () => byHand.remove());
  }
}

function isAnyLeft(): boolean {
  using links = new Links();
  return links.owned().length > 0;
}

try {
  await byHand.prepare();
  {
    await using network = await openHostNetwork({ stateDir });
    await oneByOne(network, samples.alone, samples.byHand);
    const many = await Promise.all(
      Array.from({ length: MANY }, () => timed(samples.atOnce.make, () => lease(network))),
    );
    await oneByOne(network, samples.amongMany, samples.amongManyByHand);
    for (let round = 0; round < rounds; round += 1) await timed(samples.traffic, () => many[round % MANY]?.traffic());
    await Promise.all(many.map((one) => timed(samples.atOnce.remove, () => one.release())));
    if (isAnyLeft()) throw new Error('a removed network still exists');
  }
  await byHand.end();
  const host = await ForwardingHost.open(stateDir);
  try {
    for (let round = 0; round <= rounds; round += 1) {
      for (const one of samples.forward) {
        const cost = await host.measure(one.packetBytes);
        if (round === 0) continue;
        one.ours.push(cost.ours);
        one.acceptAll.push(cost.acceptAll);
      }
    }
  } finally {
    await host.close();
  }
} finally {
  await rm(stateDir, { recursive: true, force: true });
}
process.stdout.write(`${JSON.stringify(samples)}\n`, () => process.exit(0));
