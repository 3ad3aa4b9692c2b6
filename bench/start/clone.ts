/** The time until a clone of the default template is ready, and until its first script's output. */
import type { Runtime } from '../../src/host/runtime/runtime.ts';
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { printOneMs } from '../output.ts';
import { Gvisor } from './gvisor.ts';

/** Milliseconds from the request until ready, and until print(1) has printed. */
export interface StartSamples {
  readonly ready: number[];
  readonly output: number[];
}

export const cloneBenchmark: Benchmark = {
  names: ['clone.ready', 'clone.ready/gvisor', 'clone.output', 'clone.output/gvisor'],
  summary: 'start from the template until ready, and until print(1) has printed: against a boot, and gVisor',
  async measure(context) {
    const { runtime, rounds, signal, say } = context;
    await runtime.templates.prepare(DEFAULT_TEMPLATE);
    const gvisor = await Gvisor.open();
    const attempts = new Attempts(signal);
    const clone: StartSamples = { ready: [], output: [] };
    const boot: StartSamples = { ready: [], output: [] };
    const runsc: StartSamples = { ready: [], output: [] };
    try {
      // The first round fills the page cache and is not counted.
      for (let round = 0; round <= rounds; round += 1) {
        say(`clone ${round} of ${rounds}`);
        const into = <T>(samples: T): T | null => (round === 0 ? null : samples);
        await attempts.run(() => startOnce(context, 'clone', into(clone)));
        await startOnce(context, 'boot', into(boot));
        if (typeof gvisor === 'string' || round === 0) continue;
        runsc.ready.push(await gvisor.startMs());
        runsc.output.push(await gvisor.printOneMs());
      }
    } finally {
      if (typeof gvisor !== 'string') await gvisor[Symbol.asyncDispose]();
    }
    return rows(context, attempts, {
      clone,
      boot,
      runsc: typeof gvisor === 'string' ? gvisor : { ...runsc, platform: gvisor.platform },
    });
  },
};

/** Starts a sandbox, runs print(1) in it and ends it. @param into `null`: not counted */
export async function startOnce(
  { runtime, signal }: BenchContext,
  kind: 'clone' | 'boot',
  into: StartSamples | null,
): Promise<void> {
  const began = performance.now();
  const sandbox = await (kind === 'clone' ? startClone(runtime, signal) : runtime.startVm({}, signal));
  try {
    const readyMs = performance.now() - began;
    if (sandbox.timings?.origin !== kind) throw new Error(`the sandbox did not start as a ${kind}`);
    const outputMs = readyMs + (await printOneMs(sandbox.guest(), signal));
    into?.ready.push(readyMs);
    into?.output.push(outputMs);
  } finally {
    await sandbox.stop();
  }
}

export async function startClone(runtime: Runtime, signal: AbortSignal): Promise<Supervisor> {
  const { spec, source } = await runtime.templates.prepare(DEFAULT_TEMPLATE);
  return await runtime.startVm({ warm: spec.warm }, signal, { template: source });
}

function rows(
  { runtime }: BenchContext,
  attempts: Attempts,
  samples: {
    readonly clone: StartSamples;
    readonly boot: StartSamples;
    /** A text says why there are no samples. */
    readonly runsc: (StartSamples & Pick<Gvisor, 'platform'>) | string;
  },
): Measurement[] {
  const { clone, boot, runsc } = samples;
  const { accelerator } = runtime.driver;
  const platform = typeof runsc === 'string' ? '' : runsc.platform;
  const row = (
    figure: keyof StartSamples,
    baseline: string,
    of: StartSamples | string,
    suffix = '',
    note?: string,
  ): Measurement => ({
    name: `clone.${figure}${suffix}`,
    unit: 'ms',
    accelerator,
    samples: clone[figure],
    ...(typeof of === 'string'
      ? { baseline: null, ...attempts.failures(of) }
      : { baseline: { name: baseline, samples: of[figure] }, ...attempts.failures(note) }),
  });
  return [
    row('ready', 'boot.hello', boot),
    row('ready', `runsc do true (${platform})`, runsc, '/gvisor', "gVisor's until the program has ended"),
    row('output', 'boot to the same output', boot),
    row('output', `runsc do python3 -c 'print(1)' (${platform})`, runsc, '/gvisor', "gVisor runs the host's Python"),
  ];
}
