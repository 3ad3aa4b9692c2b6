/** The time until a script's first output: forked from the warmed interpreter, or a cold `python3`. */
import type { Benchmark } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
import { firstOutputMs } from '../output.ts';

const CODE = 'import json, numpy; print(json.dumps([int(numpy.arange(4).sum())]))';
const EXPECTED = '[6]\n';

export const scriptBenchmark: Benchmark = {
  names: ['script.warm'],
  summary: 'a script that needs json and NumPy, to its first output: warmed against cold python3',
  async measure(context) {
    const { runtime, signal } = context;
    const sandbox = await runtime.startVm({ warm: ['json', 'numpy'] }, signal);
    try {
      const guest = sandbox.guest();
      const script = { code: CODE };
      const argv = ['python3', '-c', CODE];
      const { warm, cold } = await compare(context, 'script', {
        warm: async () => ({ ms: await firstOutputMs(() => guest.python({ script, stdin: false }), EXPECTED) }),
        cold: async () => ({ ms: await firstOutputMs(() => guest.exec({ argv, stdin: false }), EXPECTED) }),
      });
      const row = rowsOf('ms', runtime.driver.accelerator);
      return [row('script.warm', warm('ms'), ['cold python3', cold('ms')])];
    } finally {
      await sandbox.stop();
    }
  },
};
