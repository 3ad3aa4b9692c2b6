/** A short run of the fuzzer on each target, from the kept inputs and with the seed of this run. */
import { describe, expect, it } from 'vitest';
import { type CampaignResult, runCampaign } from '../../tools/fuzz/campaign.ts';
import { canary } from '../fuzz/canary.ts';
import { keepCrasher, keptInputs } from '../fuzz/kept-inputs.ts';
import { CANARY, HANGING_CANARY, TARGETS } from '../fuzz/registry.ts';
import { repeatLine } from '../support/repeat-line.ts';
import { randomFrom, runSeed } from '../support/run-seed.ts';

const SMOKE_MS = 500;
const INPUTS_MIN = 3;
/** The thread that does not hang may have to wait, too. */
const HANG_MS = 3_000;
/** The canary takes some thousand runs. */
const CANARY_RUNS_MAX = 1_000_000;

function campaign(name: string, timeMs: number, runs = Infinity): Promise<CampaignResult> {
  const inputs = [...keptInputs('crashers', name), ...keptInputs('corpus', name)];
  const { signal } = new AbortController();
  return runCampaign({ name, seed: runSeed(), jobs: 1, timeMs, runs, inputs, signal });
}

describe('fuzz targets', () => {
  it.each(Object.keys(TARGETS))('%s: a short run finds no bug', async (name) => {
    const { found, progress } = await campaign(name, SMOKE_MS);
    if (found !== undefined) {
      const path = keepCrasher(name, found.bytes);
      const text = `${found.reason}\ninput: ${found.meaning}\n${repeatLine()}`;
      throw new Error(`${name}: ${text}\nsaved in ${path}: commit it with the fix`);
    }
    // With fewer, the fuzzer changes the first input for ever: nothing leads it on.
    expect(progress.inputs).toBeGreaterThan(INPUTS_MIN);
    expect(progress.branches).toBeGreaterThan(0);
  });
});

describe('canary', () => {
  it('coverage leads the fuzzer to a planted bug', async () => {
    const { found, progress } = await campaign(CANARY, Infinity, CANARY_RUNS_MAX);
    expect(found?.reason).toContain('the planted bug');
    expect(progress.executions).toBeLessThan(CANARY_RUNS_MAX);
  });

  it('a run that does not end is a failure, with its input', async () => {
    const { signal } = new AbortController();
    const options = { seed: runSeed(), jobs: 2, timeMs: Infinity, inputs: [], signal };
    const { found } = await runCampaign({ name: HANGING_CANARY, hangMs: HANG_MS, ...options });
    expect(found?.reason).toBe(`one run took more than ${HANG_MS / 1000} s`);
    expect(Buffer.from(found?.bytes ?? []).toString('latin1')).toMatch(/^nv/);
  });

  it('a target that cannot be loaded is an error, not a failure of an input', async () => {
    const { signal } = new AbortController();
    const options = { seed: runSeed(), jobs: 1, timeMs: Infinity, inputs: [], signal };
    await expect(runCampaign({ name: 'nothing', ...options })).rejects.toThrow('no fuzz target "nothing"');
  });

  it('no random bytes reach the planted bug', () => {
    const random = randomFrom(runSeed());
    for (let run = 0; run < 200_000; run += 1) {
      const length = 12 + Math.floor(random() * 20);
      void canary.check(new Uint8Array(length).map(() => Math.floor(random() * 256)));
    }
  });
});
