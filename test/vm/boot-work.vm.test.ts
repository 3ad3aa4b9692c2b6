/** `neurovisor bench boot.work` finds the stages of a boot: it depends on QEMU's plugins, the kernel and glibc. */
import { expect, it } from 'vitest';
import { workBenchmark } from '../../bench/start/work.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';

it('instructions of a boot are counted by stage', async () => {
  const figures = await workBenchmark.measure({
    config: readConfig(process.env),
    get runtime(): never {
      throw new Error('it opens its own');
    },
    rounds: 1,
    signal: new AbortController().signal,
    log: silentLog,
    wants: () => true,
    say: () => undefined,
  });
  const of = (part: string): number => {
    const one = figures.find(({ name }) => name === `boot.work/${part}`);
    return one?.samples[0] ?? Number.NaN;
  };
  // Millions. Half or twice of what docs/benchmarks.md says would be news.
  expect(of('firmware')).toBeGreaterThan(0.01);
  expect(of('kernel')).toBeGreaterThan(20);
  expect(of('kernel')).toBeLessThan(100);
  expect(of('init')).toBeGreaterThan(1);
  expect(of('init')).toBeLessThan(10);
  expect(of('agent')).toBeGreaterThan(20);
  expect(of('agent')).toBeLessThan(100);
  expect(of('python')).toBeLessThan(of('agent'));
});
