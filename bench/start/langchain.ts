/** The time until a LangChain script has its first answer: in a clone, and from nothing. */
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { attachCannedModel, LANGCHAIN } from '../langchain-script.ts';
import { firstOutputMs } from '../output.ts';

interface Samples {
  readonly script: number[];
  readonly whole: number[];
}

export const langchainBenchmark: Benchmark = {
  names: ['script.langchain', 'script.langchain/whole'],
  summary: 'import of LangChain and one call of a canned model: in a new clone, and cold after a boot',
  async measure(context) {
    const { runtime, rounds, signal, say } = context;
    const attempts = new Attempts(signal);
    const warm: Samples = { script: [], whole: [] };
    const cold: Samples = { script: [], whole: [] };
    // The first round fills the page cache and is not counted.
    for (let round = 0; round <= rounds; round += 1) {
      say(`LangChain ${round} of ${rounds}`);
      await attempts.run(() => runOnce(context, 'clone', round === 0 ? null : warm));
      await runOnce(context, 'boot', round === 0 ? null : cold);
    }
    const row = (figure: keyof Samples, suffix: string, note: string) => ({
      name: `script.langchain${suffix}`,
      unit: 'ms' as const,
      samples: warm[figure],
      accelerator: runtime.driver.accelerator,
      baseline: { name: 'cold python3 after a boot', samples: cold[figure] },
      ...attempts.failures(note),
    });
    return [
      row('script', '', 'from the request in a sandbox that is ready; each sandbox runs one script'),
      row('whole', '/whole', 'from the request for a sandbox'),
    ];
  },
};

async function runOnce({ runtime, signal }: BenchContext, kind: 'clone' | 'boot', into: Samples | null): Promise<void> {
  const template = await runtime.templates.prepare(DEFAULT_TEMPLATE);
  const source = kind === 'clone' ? { template: template.source } : {};
  // The warm list must match the template's, or another interpreter starts.
  const { warm } = kind === 'clone' ? template.spec : { warm: [] };
  const parts = { ...source, attachBridge: attachCannedModel };
  const sandbox = runtime.prepareVm({ warm }, parts);
  try {
    const began = performance.now();
    await sandbox.start(signal);
    const readyMs = performance.now() - began;
    const scriptMs = await firstOutputMs(() => begin(sandbox, kind, signal), LANGCHAIN.output);
    into?.script.push(scriptMs);
    into?.whole.push(readyMs + scriptMs);
  } finally {
    await sandbox.stop();
  }
}

function begin(sandbox: Supervisor, kind: 'clone' | 'boot', signal: AbortSignal) {
  const guest = sandbox.guest();
  return kind === 'clone'
    ? guest.python({ script: { code: LANGCHAIN.code }, stdin: false }, signal)
    : guest.exec({ argv: ['python3', '-c', LANGCHAIN.code], stdin: false }, signal);
}
