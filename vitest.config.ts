import { dirname } from 'node:path';
import { defineConfig } from 'vitest/config';
import { runSeed } from './test/support/run-seed.ts';
import LongestFirst from './tools/test/sequencer.ts';

// Tests start `./neurovisor` in homes of their own, where it would fetch a Node.js if it saw an old one.
process.env['PATH'] = `${dirname(process.execPath)}:${process.env['PATH']}`;

// Workers inherit the seed of the run. `./neurovisor test` has printed the one that it chose.
if (!process.env['NEUROVISOR_SEED']) process.stderr.write(`seed ${runSeed()}\n`);

// Limits are for what hangs, not for what is slow: a busy machine takes ten times as long. So is the time for
// which `expect.poll` asks again.
const POLL = { timeout: 60_000, interval: 20 };

const SEEDED = { setupFiles: ['test/support/seed.setup.ts'] };
const ALONE = { fileParallelism: false };
// Files share a process, and with it the modules that the ones before have loaded: half of the processor time.
const SHARED = { ...SEEDED, isolate: false };

// The layers of the test pyramid. Only `smoke`, `vm`, `e2e` and `nested` boot virtual machines, one file at a time.
const layer = (
  name: string,
  include: string[],
  timeoutMs: number,
  more: { readonly setupFiles?: string[]; readonly fileParallelism?: boolean; readonly isolate?: boolean } = {},
) => ({
  test: {
    name,
    include,
    ...more,
    testTimeout: timeoutMs,
    hookTimeout: timeoutMs,
    expect: { poll: POLL },
    // The closing summary has only messages: a list of failed attempts must be readable in them.
    chaiConfig: { truncateThreshold: 1000 },
    pool: 'forks' as const,
  },
});

export default defineConfig({
  test: {
    sequence: { sequencer: LongestFirst },
    projects: [
      layer('tidy', ['test/{tidy,promises,prebuilt}.test.ts'], 120_000),
      layer('unit', ['{src,prove,bench,test/fuzz,test/support,tools}/**/*.test.ts'], 120_000),
      layer('prop', ['src/**/*.prop.ts', 'test/prop/**/*.prop.ts'], 600_000, SEEDED),
      layer('inprocess', ['test/inprocess/**/*.test.ts'], 600_000, SHARED),
      layer('component', ['test/component/**/*.test.ts'], 600_000, SHARED),
      layer('proofs', ['test/proofs/**/*.test.ts'], 600_000, SHARED),
      layer('clients', ['test/clients/**/*.test.ts'], 600_000, SHARED),
      layer('smoke', ['test/smoke/**/*.smoke.test.ts'], 900_000, ALONE),
      layer('vm', ['test/vm/**/*.vm.test.ts'], 900_000, { ...ALONE, isolate: false }),
      layer('e2e', ['test/e2e/**/*.e2e.test.ts'], 900_000, { ...ALONE, isolate: false }),
      layer('nested', ['test/nested/**/*.nested.test.ts'], 1_800_000, ALONE),
    ],
  },
});
