/** The time of a claim from the warm pool, and until its first script's output: against a clone. */
import { sleep } from '../../src/base/clock.ts';
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { waitForCalm } from '../calm.ts';
import { openBenchControl } from '../control.ts';
import { printOneMs } from '../output.ts';
import { type StartSamples, startOnce } from './clone.ts';

const MEMBERS = 2;
const FULL_MS_MAX = 60_000;
const LOOK_EVERY_MS = 50;

export const poolBenchmark: Benchmark = {
  names: ['pool.claim', 'pool.output'],
  summary: 'a sandbox from the warm pool, and until print(1) has printed in it: against a clone',
  async measure(context) {
    const { runtime, rounds, signal, say } = context;
    await using opened = await openBenchControl(context);
    const { control } = opened;
    const attempts = new Attempts(signal);
    const claim: StartSamples = { ready: [], output: [] };
    const clone: StartSamples = { ready: [], output: [] };
    let busyRounds = 0;
    await control.setPool({ min: MEMBERS, max: MEMBERS });
    // The first round fills caches and is not counted.
    for (let round = 0; round <= rounds; round += 1) {
      say(`pool ${round} of ${rounds}`);
      await waitUntilFull(control, signal);
      await startOnce(context, 'clone', round === 0 ? null : clone);
      if (!(await waitForCalm(signal)) && round > 0) busyRounds += 1;
      await attempts.run(() => claimOnce(context, control, round === 0 ? null : claim));
    }
    const note =
      `before each claim the pool was full (${MEMBERS}) and the machine idle` +
      (busyRounds === 0 ? '' : `, but for ${busyRounds} of ${rounds}: it was busy for 20 s`) +
      '; the pool begins to refill at the claim';
    const { accelerator } = runtime.driver;
    const row = (name: string, figure: keyof StartSamples, baseline: string) => ({
      name,
      unit: 'ms' as const,
      accelerator,
      samples: claim[figure],
      baseline: { name: baseline, samples: clone[figure] },
      ...attempts.failures(note),
    });
    return [row('pool.claim', 'ready', 'clone.ready'), row('pool.output', 'output', 'clone.output')];
  },
};

async function claimOnce(
  { signal }: BenchContext,
  control: LocalControlPlane,
  into: StartSamples | null,
): Promise<void> {
  const began = performance.now();
  const { id, origin } = await control.create({}, signal);
  const claimMs = performance.now() - began;
  try {
    if (origin !== 'pool') throw new Error(`the sandbox is a ${origin}, not from the pool`);
    const outputMs = claimMs + (await printOneMs(await control.guest(id), signal));
    into?.ready.push(claimMs);
    into?.output.push(outputMs);
  } finally {
    await control.remove(id);
  }
}

/** @throws if the pool is not full within a minute */
async function waitUntilFull(control: LocalControlPlane, signal: AbortSignal): Promise<void> {
  for (let waitedMs = 0; waitedMs < FULL_MS_MAX; waitedMs += LOOK_EVERY_MS) {
    const [pool] = await control.pools();
    if (pool !== undefined && pool.ready >= MEMBERS && pool.starting === 0) return;
    await sleep(LOOK_EVERY_MS, signal);
  }
  throw new Error(`the pool was not full within ${FULL_MS_MAX} ms`);
}
