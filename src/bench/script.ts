/** How long a script takes to its first output: forked from the warmed interpreter, or a cold `python3`. */
import type { Process } from '../guest/link.ts';
import type { Benchmark } from './benchmark.ts';

const CODE = 'import json, numpy; print(json.dumps([int(numpy.arange(4).sum())]))';
const EXPECTED = '[6]\n';

export const scriptBenchmark: Benchmark = {
  names: ['script.warm'],
  summary: 'a script that needs json and NumPy, to its first output: warmed against cold python3',
  async measure({ runtime, rounds, signal, say }) {
    const sandbox = await runtime.createSandbox({ warm: ['json', 'numpy'] }, signal);
    try {
      const guest = sandbox.guest();
      const warm: number[] = [];
      const cold: number[] = [];
      for (let round = 0; round <= rounds; round += 1) {
        say(`script ${round} of ${rounds}`);
        const forked = await firstOutput(() => guest.python({ script: { code: CODE } }));
        const fresh = await firstOutput(() => guest.exec({ argv: ['python3', '-c', CODE] }));
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

/** Milliseconds from the request to the first byte of the right answer. */
async function firstOutput(begin: () => Promise<Process>): Promise<number> {
  const began = performance.now();
  const process = await begin();
  process.stdin.end();
  let first: number | undefined;
  let text = '';
  for await (const chunk of process.stdout) {
    first ??= performance.now();
    text += chunk;
  }
  const exit = await process.exit;
  if (first === undefined || text !== EXPECTED) {
    throw new Error(`the script printed ${JSON.stringify(text)} and ended ${exit.exitCode}`);
  }
  return first - began;
}
