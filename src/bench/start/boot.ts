/** The time from nothing until init runs, and until the agent is ready. */
import type { Benchmark } from '../benchmark.ts';

export const bootBenchmark: Benchmark = {
  names: ['boot.init', 'boot.hello'],
  summary: 'start of a sandbox until init runs, and until its agent is ready',
  async measure({ runtime, rounds, signal, say }) {
    const init: number[] = [];
    const hello: number[] = [];
    // The first boot reads the image into the page cache; it is not counted.
    for (let round = 0; round <= rounds; round += 1) {
      say(`boot ${round} of ${rounds}`);
      const sandbox = await runtime.startVm({}, signal);
      const timings = sandbox.timings;
      await sandbox.stop();
      if (round === 0 || timings === undefined) continue;
      init.push(timings.prepareMs + timings.vmmMs + timings.kernelMs);
      hello.push(timings.totalMs);
    }
    const { accelerator } = runtime.driver;
    const note = 'no baseline: no other microVM runner was measured in software emulation';
    return [
      { name: 'boot.init', unit: 'ms', accelerator, samples: init, baseline: null, note },
      { name: 'boot.hello', unit: 'ms', accelerator, samples: hello, baseline: null, note },
    ];
  },
};
