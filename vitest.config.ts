import { dirname } from 'node:path';
import { defineConfig } from 'vitest/config';

// Tests start `./neurovisor` in homes of their own, where it would fetch a Node.js if it saw an old one.
process.env['PATH'] = `${dirname(process.execPath)}:${process.env['PATH']}`;

// The layers of the test pyramid. Only `vm` and `e2e` boot virtual machines, one file at a time.
const layer = (name: string, include: string[], timeoutMs: number, parallel = true) => ({
  test: {
    name,
    include,
    testTimeout: timeoutMs,
    hookTimeout: timeoutMs,
    pool: 'forks' as const,
    fileParallelism: parallel,
  },
});

export default defineConfig({
  test: {
    projects: [
      layer('tidy', ['test/tidy.test.ts'], 20_000),
      layer('unit', ['src/**/*.test.ts', 'test/support/**/*.test.ts'], 20_000),
      layer('prop', ['src/**/*.prop.ts', 'test/prop/**/*.prop.ts'], 120_000),
      layer('component', ['test/component/**/*.test.ts'], 120_000),
      layer('vm', ['test/vm/**/*.vm.test.ts'], 300_000, false),
      layer('e2e', ['test/e2e/**/*.e2e.test.ts'], 900_000, false),
    ],
  },
});
