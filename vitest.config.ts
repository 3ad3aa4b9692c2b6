import { dirname } from 'node:path';
import { defineConfig } from 'vitest/config';

// Tests start `./neurovisor` in homes of their own, where it would fetch a Node.js if it saw an old one.
process.env['PATH'] = `${dirname(process.execPath)}:${process.env['PATH']}`;

// Limits are for what hangs, not for what is slow: a busy machine takes ten times as long. So is the time for
// which `expect.poll` asks again.
const POLL = { timeout: 60_000, interval: 20 };

// The layers of the test pyramid. Only `vm` and `e2e` boot virtual machines, one file at a time.
const layer = (name: string, include: string[], timeoutMs: number, parallel = true) => ({
  test: {
    name,
    include,
    testTimeout: timeoutMs,
    hookTimeout: timeoutMs,
    expect: { poll: POLL },
    pool: 'forks' as const,
    fileParallelism: parallel,
  },
});

export default defineConfig({
  test: {
    projects: [
      layer('tidy', ['test/tidy.test.ts'], 120_000),
      layer('unit', ['{src,test/support,tools}/**/*.test.ts'], 120_000),
      layer('prop', ['src/**/*.prop.ts', 'test/prop/**/*.prop.ts'], 600_000),
      layer('component', ['test/component/**/*.test.ts'], 600_000),
      layer('vm', ['test/vm/**/*.vm.test.ts'], 900_000, false),
      layer('e2e', ['test/e2e/**/*.e2e.test.ts'], 900_000, false),
    ],
  },
});
