/**
 * Runs benchmarks in the nested host with each VMM, so that Firecracker and QEMU with KVM can be compared with each other,
 * and with emulation on the same machine: node tools/nested/bench.ts [--rounds N] [NAME...]
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '../../test/support/free-port.ts';
import { NESTED_ENVIRONMENT, nestedParts } from '../../test/support/nested.ts';
import { makeDisks } from './disks.ts';
import { NestedHost } from './host.ts';

const BENCH_MS_MAX = 3_600_000;

const words = process.argv.slice(2).map((word) => `'${word.replaceAll("'", '')}'`);
const parts = nestedParts(process.env);
if (typeof parts === 'string') throw new Error(`no nested host: ${parts}`);
const dir = await mkdtemp(join(tmpdir(), 'nv-nested-'));
try {
  const cache = join(parts.home, 'cache/test-nested');
  const files = await makeDisks(cache, parts, (step) => void process.stderr.write(`${step}\n`));
  const host = await NestedHost.boot(files, dir, await freePort());
  try {
    for (const vmm of ['firecracker', 'qemu']) {
      const command = `NEUROVISOR_VMM=${vmm} node src/cli/main.ts bench ${words.join(' ')}`;
      const { output } = await host.run(`${NESTED_ENVIRONMENT}${command}`, BENCH_MS_MAX);
      process.stdout.write(`\n${vmm}\n${output}\n`);
    }
  } finally {
    await host.close();
  }
} finally {
  await rm(dir, { recursive: true });
}
