/** The time until a script's first output: forked from the warmed interpreter, or a cold `python3`. */
import type { Benchmark } from '../benchmark.ts';
import { firstOutputMs } from '../output.ts';

const CODE = 'import json, numpy; print(json.dumps([int(numpy.arange(4).sum())]))';
const EXPECTED = '[6]\n';

export const scriptBenchmark: Benchmark = {
  names: ['script.warm'],
  summary: 'a script that needs json and NumPy, to its first output: warmed against cold python3',
  async measure({ runtime, rounds, signal, say }) {
    const sandbox = await runtime.startVm({ warm: ['json', 'numpy'] }, signal);
    try {
      const guest = sandbox.guest();
      const script = { code: CODE };
      const argv = ['python3', '-c', CODE];
      const warm: number[] = [];
      const cold: number[] = [];
      for (let round = 0; round <= rounds; round += 1) {
        say(`script ${round} of ${rounds}`);
        const forked = await firstOutputMs(() => guest.python({ script, stdin: false }), EXPECTED);
        const fresh = await firstOutputMs(() => guest.exec({ argv, stdin: false }), EXPECTED);
        if (round === 0) continue;
        warm.push(forked);
        cold.push(fresh);
      }
      return [
        {
          name: 'script.warm',
          unit: 'ms',
          accelerator: runtime.driver.accelerator,
          samples: warm,
          baseline: { name: 'cold python3', samples: cold },
        },
      ];
    } finally {
      await sandbox.stop();
    }
  },
};
