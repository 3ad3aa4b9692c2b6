/**
 * The network benchmark inside its own network namespace, so that nothing of the machine's is touched. Prints
 * one line of JSON: samples in ms. Arguments: how many rounds.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../base/clock.ts';
import { newSandboxId } from '../base/ids.ts';
import { parsePolicy } from '../net/egress-rules.ts';
import { openHostNetwork } from '../net/host-network.ts';
import { Links } from '../net/links.ts';
import { openTap } from '../net/tap.ts';
import { startTicksOf } from '../sys/process-start.ts';

export interface NetworkSamples {
  readonly make: number[];
  readonly remove: number[];
  /** The kernel's part alone: a TAP with an address, without anything that keeps a guest in. */
  readonly makeTap: number[];
  readonly removeTap: number[];
}

const rounds = Number(process.argv[2]);
const policy = parsePolicy({
  mode: 'allowlist',
  allow: ['pypi.org', '*.pythonhosted.org', '198.51.100.0/24:443'],
});
const samples: NetworkSamples = { make: [], remove: [], makeTap: [], removeTap: [] };
const stateDir = await mkdtemp(join(tmpdir(), 'nv-bench-net-'));
const owner = { pid: process.pid, startTicks: startTicksOf(process.pid) ?? '' };

async function timed<T>(into: number[] | null, work: () => Promise<T> | T): Promise<T> {
  const begun = systemClock.now();
  const result = await work();
  into?.push(systemClock.now() - begun);
  return result;
}

try {
  await using network = await openHostNetwork({ stateDir });
  using links = new Links();
  // The first warms up and is not counted.
  for (let round = 0; round <= rounds; round += 1) {
    const counted = round === 0 ? null : samples;
    const sandboxId = newSandboxId();
    const lease = await timed(counted?.make ?? null, () => network.lease({ sandboxId, policy }));
    await timed(counted?.remove ?? null, () => lease.release());
    const tap = await timed(counted?.makeTap ?? null, () => {
      const made = openTap(links, { name: 'bench0', owner: { ...owner, sandboxId } });
      const address = { linkIndex: made.linkIndex, address: '192.168.99.1', prefixLength: 30 };
      links.addAddress(address);
      links.change(made.linkIndex, { up: true });
      return made;
    });
    await timed(counted?.removeTap ?? null, () => tap.close());
  }
} finally {
  await rm(stateDir, { recursive: true, force: true });
}
process.stdout.write(`${JSON.stringify(samples)}\n`, () => process.exit(0));
