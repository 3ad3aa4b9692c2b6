/** Benchmarks of VMMs that need no Linux guest. */
import { expect } from 'vitest';
import type { BenchContext, Benchmark, Measurement } from '../../bench/benchmark.ts';
import { jailBenchmark } from '../../bench/kernel/jail.ts';
import { vmmMemoryBenchmark } from '../../bench/memory/vmm.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { temporaryDirectory } from '../support/image.ts';
import { requiresRoot } from '../support/requires.ts';

async function measure(benchmark: Benchmark, wanted: string): Promise<readonly Measurement[]> {
  const context: BenchContext = {
    get runtime(): never {
      throw new Error('it needs none');
    },
    config: readConfig({ ...process.env, NEUROVISOR_HOME: await temporaryDirectory() }),
    rounds: 2,
    signal: new AbortController().signal,
    log: silentLog,
    wants: (name) => name.startsWith(wanted),
    say: () => undefined,
  };
  return await benchmark.measure(context);
}

requiresRoot().it('jail: follows each start to the exec of the VMM, jailed and not', async () => {
  const [start, spawn] = await measure(jailBenchmark, 'jail');
  expect(start?.samples).toHaveLength(2);
  expect(start?.baseline?.samples).toHaveLength(2);
  for (const [index, ms] of (spawn?.samples ?? []).entries()) {
    expect(ms).toBeGreaterThan(0);
    expect(start?.samples[index]).toBeGreaterThan(ms);
  }
  expect(spawn?.samples).toHaveLength(2);
});

requiresRoot().it('vmm.memory/empty: private pages are part of the memory, and no Linux is booted', async () => {
  const measured = await measure(vmmMemoryBenchmark, 'vmm.memory/empty');
  const samples = (name: string) => measured.find((one) => one.name === name)?.samples ?? [];
  const [shares, own] = [samples('vmm.memory/empty'), samples('vmm.memory/empty-private')];
  expect(own).toHaveLength(2);
  for (const [index, mib] of own.entries()) {
    expect(mib).toBeGreaterThan(1);
    expect(shares[index]).toBeGreaterThan(mib);
  }
  expect(measured.filter(({ failed }) => failed !== 0)).toEqual([]);
  expect(samples('vmm.memory/boot')).toEqual([]);
});
