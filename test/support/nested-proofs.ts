/** `neurovisor prove` in the nested host: what a compromised guest or VMM may not do, with either VMM. */
import { expect, it } from 'vitest';
import type { Proof } from '../../src/prove/proof.ts';
import type { ProofName } from '../../src/prove/prove.ts';
import type { NestedVmm, NestedWorld } from './nested.ts';

/** With time limits of their own, for a host that is emulated twice. */
const PROOF_MS_MAX = 1_500_000;

const USUAL: readonly ProofName[] = ['caps', 'cgroup', 'image', 'oom'];
/** `seccomp` starts a VMM for each of its calls; rates need a machine that does nothing else. */
const LONG: readonly ProofName[] = ['seccomp', 'io', 'files', 'ratelimit'];

/** Describe-body. @param isFull with the proofs that take minutes each */
export function nestedProofs(world: NestedWorld, vmm: NestedVmm, isFull: boolean): void {
  it.each([...USUAL, ...(isFull ? LONG : [])])(
    'prove %s: everything holds',
    { timeout: PROOF_MS_MAX },
    async (name) => {
      const output = await world.sh(
        `node src/cli/main.ts prove ${name} --vmm ${vmm} -o json 2> /tmp/prove.err || [ $? = 1 ] || { cat /tmp/prove.err; false; }`,
        PROOF_MS_MAX,
      );
      const proofs = JSON.parse(output.slice(output.indexOf('['))) as Proof[];
      const tried = proofs.flatMap((proof) => proof.tried);
      expect(tried.filter(({ ok }) => !ok)).toEqual([]);
      expect(tried.length).toBeGreaterThan(4);
    },
  );
}
