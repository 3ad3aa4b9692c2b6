/** `neurovisor prove` in the nested host, with either VMM: the limits of a compromised guest or VMM. */
import { expect, it } from 'vitest';
import type { Proof } from '../../prove/proof.ts';
import type { ProofName } from '../../prove/prove.ts';
import type { NestedVmm, NestedWorld } from './nested.ts';

/** Separate timeouts, for a host that is emulated twice. */
const PROOF_MS_MAX = 1_500_000;

/** `seccomp` starts a VMM for each of its calls; rates need an idle machine. */
const OF_VMMS: readonly ProofName[] = ['caps', 'cgroup', 'image', 'oom', 'seccomp', 'io', 'files', 'ratelimit'];
/** Processes in network namespaces stand for guests. */
const OF_NETWORK: readonly ProofName[] = ['metadata', 'egress', 'secrets', 'xdp'];

/** Body of a `describe`. */
export function nestedProofs(world: NestedWorld, vmm: NestedVmm): void {
  it.each(OF_VMMS)('prove %s: everything holds', { timeout: PROOF_MS_MAX }, async (name) => {
    const tried = await prove(world, `${name} --vmm ${vmm}`);
    expect(tried.filter(({ ok }) => !ok)).toEqual([]);
    expect(tried.length).toBeGreaterThan(4);
    expect(tried.filter(({ what }) => what.includes('not tried'))).toEqual([]);
  });
}

/** Body of a `describe`. */
export function nestedNetworkProofs(world: NestedWorld): void {
  it.each(OF_NETWORK)('prove %s: everything holds', { timeout: PROOF_MS_MAX }, async (name) => {
    const tried = await prove(world, name);
    expect(tried.filter(({ ok }) => !ok)).toEqual([]);
    expect(tried.length).toBeGreaterThan(4);
  });
}

async function prove(world: NestedWorld, words: string): Promise<Proof['tried']> {
  const output = await world.command(`prove ${words} -o json`, PROOF_MS_MAX);
  return (JSON.parse(output) as Proof[]).flatMap((proof) => proof.tried);
}
