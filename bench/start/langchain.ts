/** The time until a LangChain script has its first answer: in a clone, and from nothing. */
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
import { attachCannedModel, LANGCHAIN } from '../langchain-script.ts';
import { firstOutputMs } from '../output.ts';

export const langchainBenchmark: Benchmark = {
  names: ['script.langchain', 'script.langchain/whole'],
  summary: 'import of LangChain and one call of a canned model: in a new clone, and cold after a boot',
  async measure(context) {
    const { runtime, signal } = context;
    const attempts = new Attempts(signal);
    const { warm, cold } = await compare(context, 'LangChain', {
      warm: () => attempts.run(() => runOnce(context, 'clone')),
      cold: () => runOnce(context, 'boot'),
    });
    const make = rowsOf('ms', runtime.driver.accelerator);
    const row = (figure: 'script' | 'whole', suffix: string, note: string) =>
      make(
        `script.langchain${suffix}`,
        warm(figure),
        ['cold python3 after a boot', cold(figure)],
        attempts.failures(note),
      );
    return [
      row('script', '', 'from the request in a sandbox that is ready; each sandbox runs one script'),
      row('whole', '/whole', 'from the request for a sandbox'),
    ];
  },
};

async function runOnce({ runtime, signal }: BenchContext, kind: 'clone' | 'boot') {
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
    return { script: scriptMs, whole: readyMs + scriptMs };
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
