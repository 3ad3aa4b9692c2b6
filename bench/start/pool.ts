/** The time of a claim from the warm pool, and until its first script's output: against a clone. */
import { sleep } from '../../src/base/clock.ts';
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { waitForCalm } from '../calm.ts';
import { compare, rowsOf } from '../compare.ts';
import { openBenchControl } from '../control.ts';
import { printOneMs } from '../output.ts';
import { startOnce } from './clone.ts';

const MEMBERS = 2;
const FULL_MS_MAX = 60_000;
const LOOK_EVERY_MS = 50;

export const poolBenchmark: Benchmark = {
  names: ['pool.claim', 'pool.output'],
  summary: 'a sandbox from the warm pool, and until print(1) has printed in it: against a clone',
  async measure(context) {
    const { runtime, rounds, signal } = context;
    await using opened = await openBenchControl(context);
    const { control } = opened;
    const attempts = new Attempts(signal);
    let busyRounds = 0;
    await control.setPool({ min: MEMBERS, max: MEMBERS });
    const { claim, clone } = await compare(context, 'pool', {
      clone: async () => {
        await waitUntilFull(control, signal);
        return await startOnce(context, 'clone');
      },
      claim: async (round) => {
        if (!(await waitForCalm(signal)) && round > 0) busyRounds += 1;
        return await attempts.run(() => claimOnce(context, control));
      },
    });
    const note =
      `before each claim the pool was full (${MEMBERS}) and the machine idle` +
      (busyRounds === 0 ? '' : `, but for ${busyRounds} of ${rounds}: it was busy for 20 s`) +
      '; the pool begins to refill at the claim';
    const row = rowsOf('ms', runtime.driver.accelerator);
    return [
      row('pool.claim', claim('ready'), ['clone.ready', clone('ready')], attempts.failures(note)),
      row('pool.output', claim('output'), ['clone.output', clone('output')], attempts.failures(note)),
    ];
  },
};

async function claimOnce({ signal }: BenchContext, control: LocalControlPlane) {
  const began = performance.now();
  const { id, origin } = await control.create({}, signal);
  const claimMs = performance.now() - began;
  try {
    if (origin !== 'pool') throw new Error(`the sandbox is a ${origin}, not from the pool`);
    return { ready: claimMs, output: claimMs + (await printOneMs(await control.guest(id), signal)) };
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
