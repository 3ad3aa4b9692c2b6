/** The time until a clone of the default template is ready, and until its first script's output. */
import type { Runtime } from '../../src/host/runtime/runtime.ts';
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { compare, rowsOf, type Samples } from '../compare.ts';
import { printOneMs } from '../output.ts';
import { Gvisor } from './gvisor.ts';

/** Milliseconds from the request until ready, and until print(1) has printed. */
type StartTimes = { readonly ready: number; readonly output: number };

export const cloneBenchmark: Benchmark = {
  names: ['clone.ready', 'clone.ready/gvisor', 'clone.output', 'clone.output/gvisor'],
  summary: 'start from the template until ready, and until print(1) has printed: against a boot, and gVisor',
  async measure(context) {
    const { runtime, signal } = context;
    await runtime.templates.prepare(DEFAULT_TEMPLATE);
    const gvisor = await Gvisor.open();
    const attempts = new Attempts(signal);
    const isMissing = typeof gvisor === 'string';
    try {
      const { clone, boot, runsc } = await compare(context, 'clone', {
        clone: () => attempts.run(() => startOnce(context, 'clone')),
        boot: () => startOnce(context, 'boot'),
        runsc: isMissing ? null : (round) => runscOnce(gvisor, round),
      });
      const row = rowsOf('ms', runtime.driver.accelerator);
      const against = (figure: keyof StartTimes, baseline: string, of: Samples<keyof StartTimes>) =>
        row(`clone.${figure}`, clone(figure), [baseline, of(figure)], attempts.failures());
      const gvisorRow = (figure: keyof StartTimes, program: string, note: string) => {
        const baseline = isMissing ? null : ([`${program} (${gvisor.platform})`, runsc(figure)] as const);
        return row(`clone.${figure}/gvisor`, clone(figure), baseline, attempts.failures(isMissing ? gvisor : note));
      };
      return [
        against('ready', 'boot.hello', boot),
        gvisorRow('ready', 'runsc do true', "gVisor's until the program has ended"),
        against('output', 'boot to the same output', boot),
        gvisorRow('output', "runsc do python3 -c 'print(1)'", "gVisor runs the host's Python"),
      ];
    } finally {
      if (!isMissing) await gvisor[Symbol.asyncDispose]();
    }
  },
};

/** Its own round 0 is the run of `Gvisor.open`. */
async function runscOnce(gvisor: Gvisor, round: number): Promise<StartTimes | undefined> {
  return round === 0 ? undefined : { ready: await gvisor.startMs(), output: await gvisor.printOneMs() };
}

/** Starts a sandbox, runs print(1) in it and ends it. */
export async function startOnce({ runtime, signal }: BenchContext, kind: 'clone' | 'boot'): Promise<StartTimes> {
  const began = performance.now();
  const sandbox = await (kind === 'clone' ? startClone(runtime, signal) : runtime.startVm({}, signal));
  try {
    const readyMs = performance.now() - began;
    if (sandbox.timings?.origin !== kind) throw new Error(`the sandbox did not start as a ${kind}`);
    return { ready: readyMs, output: readyMs + (await printOneMs(sandbox.guest(), signal)) };
  } finally {
    await sandbox.stop();
  }
}

export async function startClone(runtime: Runtime, signal: AbortSignal): Promise<Supervisor> {
  const { spec, source } = await runtime.templates.prepare(DEFAULT_TEMPLATE);
  return await runtime.startVm({ warm: spec.warm }, signal, { template: source });
}
