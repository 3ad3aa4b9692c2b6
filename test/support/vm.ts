/**
 * The one way in which tests get virtual machines: a runtime on this machine's home, whose kernel and
 * image set-up has made, and sandboxes that end with the test file.
 */
import { afterAll, beforeAll } from 'vitest';
import { type Log, silentLog } from '../../src/base/log.ts';
import { silentProgress } from '../../src/base/progress.ts';
import type { UsageRecord } from '../../src/bridge/bridge.ts';
import { readConfig } from '../../src/config.ts';
import type { Guest, ProcessExit, PythonSpec } from '../../src/guest/link.ts';
import { Runtime } from '../../src/runtime/runtime.ts';

export interface RuntimeFixture {
  /** Valid inside tests. */
  readonly runtime: Runtime;
  readonly usage: readonly UsageRecord[];
}

/** @param upstream `engine`, a URL or `unix:/path`; a function is called when the tests begin */
export function useRuntime(
  upstream: string | (() => string) = 'engine',
  log: Log = silentLog,
): RuntimeFixture {
  let runtime: Runtime | undefined;
  const usage: UsageRecord[] = [];
  beforeAll(async () => {
    const where = typeof upstream === 'string' ? upstream : upstream();
    runtime = await Runtime.open({
      config: { ...readConfig(process.env), upstream: where },
      progress: silentProgress,
      log,
      signal: new AbortController().signal,
      onUsage: (record) => void usage.push(record),
    });
  });
  afterAll(() => runtime?.close());
  return {
    get runtime() {
      if (runtime === undefined) throw new Error('the runtime is open only inside tests');
      return runtime;
    },
    usage,
  };
}

export interface Outcome extends ProcessExit {
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs Python code in the guest and collects what it prints. */
export async function python(
  guest: Guest,
  code: string,
  options: Omit<PythonSpec, 'script'> = {},
): Promise<Outcome> {
  const process = await guest.python({ stdin: false, ...options, script: { code } });
  return await collect(process);
}

/** Runs a program in the guest and collects what it prints. */
export async function exec(
  guest: Guest,
  argv: readonly string[],
  options: { user?: string } = {},
): Promise<Outcome> {
  return await collect(await guest.exec({ stdin: false, ...options, argv }));
}

async function collect(process: Awaited<ReturnType<Guest['exec']>>): Promise<Outcome> {
  const read = async (stream: AsyncIterable<Buffer>): Promise<string> => {
    const chunks: Buffer[] = [];
    for await (const chunk of stream) chunks.push(chunk);
    return Buffer.concat(chunks).toString('utf8');
  };
  const [stdout, stderr, exit] = await Promise.all([
    read(process.stdout),
    read(process.stderr),
    process.exit,
  ]);
  return { ...exit, stdout, stderr };
}
