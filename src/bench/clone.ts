/** How long a clone of the default template takes to be ready, and to the output of its first script. */
import type { Supervisor } from '../sandbox/supervisor.ts';
import { DEFAULT_TEMPLATE } from '../sandbox/template.ts';
import type { Benchmark } from './benchmark.ts';

const CODE = 'print(1)';

export const cloneBenchmark: Benchmark = {
  names: ['clone.ready', 'clone.output'],
  summary: 'start from the template until the agent is ready, and until print(1) has printed',
  async measure({ runtime, rounds, signal, say }) {
    await runtime.templates.prepare(DEFAULT_TEMPLATE);
    const clone = { ready: [] as number[], output: [] as number[] };
    const boot = { ready: [] as number[], output: [] as number[] };
    // The first of each reads files into the page cache; it is not counted.
    for (let round = 0; round <= rounds; round += 1) {
      say(`clone ${round} of ${rounds}`);
      for (const [kind, figures] of [
        ['clone', clone],
        ['boot', boot],
      ] as const) {
        const began = performance.now();
        const sandbox = await (kind === 'clone'
          ? runtime.cloneSandbox({}, signal)
          : runtime.createSandbox({}, signal));
        try {
          const { timings } = sandbox;
          if (timings?.origin !== kind) throw new Error(`the sandbox did not start as a ${kind}`);
          await firstOutput(sandbox);
          const outputMs = performance.now() - began;
          if (round === 0) continue;
          figures.ready.push(timings.totalMs);
          figures.output.push(outputMs);
        } finally {
          await sandbox.stop();
        }
      }
    }
    const { accelerator } = runtime.driver;
    const measurement = (name: string, samples: number[], base: string, of: number[]) => ({
      ...{ name, unit: 'ms' as const, accelerator, samples },
      baseline: { name: base, samples: of },
    });
    return [
      measurement('clone.ready', clone.ready, 'boot.hello', boot.ready),
      measurement('clone.output', clone.output, 'boot to the same output', boot.output),
    ];
  },
};

async function firstOutput(sandbox: Supervisor): Promise<void> {
  const process = await sandbox.guest().python({ script: { code: CODE }, stdin: false });
  let text = '';
  for await (const chunk of process.stdout) text += chunk;
  if (text !== '1\n') throw new Error(`the script printed ${JSON.stringify(text)}`);
}
