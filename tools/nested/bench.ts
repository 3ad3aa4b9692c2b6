/**
 * Runs benchmarks in the nested host with each VMM, so that Firecracker and QEMU with KVM can be compared with each
 * other, and with emulation on the same machine: node tools/nested/bench.ts [--rounds N] [NAME...]
 */
import { NESTED_ENVIRONMENT, nestedParts } from '../../test/support/nested.ts';
import { openNestedHost } from './open.ts';

const BENCH_MS_MAX = 3_600_000;

const words = process.argv.slice(2).map((word) => `'${word.replaceAll("'", '')}'`);
const parts = nestedParts(process.env);
if (typeof parts === 'string') throw new Error(`no nested host: ${parts}`);
await using nested = await openNestedHost(parts);
for (const vmm of ['firecracker', 'qemu']) {
  const command = `NEUROVISOR_VMM=${vmm} node src/cli/main.ts bench ${words.join(' ')}`;
  const { output } = await nested.host.run(`${NESTED_ENVIRONMENT}${command}`, BENCH_MS_MAX);
  process.stdout.write(`\n${vmm}\n${output}\n`);
}
