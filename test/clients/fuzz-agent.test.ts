/** A short run of Atheris on each part of the agent, from the kept inputs and with the seed of this run. */
import { describe, expect, it } from 'vitest';
import { AGENT_CANARY, AGENT_TARGETS, fetchAtheris, progressOf, runAgentCampaign } from '../../tools/fuzz/agent.ts';
import type { CampaignResult } from '../../tools/fuzz/campaign.ts';
import { keepCrasher, keptInputs } from '../fuzz/kept-inputs.ts';
import { repeatLine } from '../support/repeat-line.ts';
import { requires } from '../support/requires.ts';
import { runSeed } from '../support/run-seed.ts';
import { testCacheDir } from '../support/wheel.ts';

const SMOKE_MS = 1000;
/** The canary takes about 60,000 runs. */
const CANARY_RUNS_MAX = 5_000_000;
const cacheDir = testCacheDir('.');

async function findAtheris(): Promise<true | string> {
  try {
    await fetchAtheris(cacheDir);
    return true;
  } catch (error) {
    return String(error);
  }
}

function campaign(name: string, timeMs: number, runs = Infinity): Promise<CampaignResult> {
  const inputs = [...keptInputs('crashers', name), ...keptInputs('corpus', name)];
  const { signal } = new AbortController();
  return runAgentCampaign({ ...{ name, seed: runSeed(), jobs: 1, timeMs, runs, inputs, signal }, cacheDir });
}

requires('atheris', await findAtheris()).describe('fuzz targets of the agent', () => {
  it.each(AGENT_TARGETS)('%s: a short run finds no bug', async (name) => {
    const { found, progress } = await campaign(name, SMOKE_MS);
    if (found !== undefined) {
      const path = keepCrasher(name, found.bytes);
      const text = `${found.reason}\ninput: ${found.meaning}\n${repeatLine()}`;
      throw new Error(`${name}: ${text}\nsaved in ${path}: commit it with the fix`);
    }
    expect(progress.branches).toBeGreaterThan(0);
  });

  it('canary: coverage leads Atheris to a planted bug', async () => {
    const { found } = await campaign(AGENT_CANARY, Infinity, CANARY_RUNS_MAX);
    expect(found?.reason).toContain('the planted bug');
  });
});

describe('progressOf', () => {
  it('reads the last report of libFuzzer, and nothing else', () => {
    const line = '#3\tNEW    cov: 4 ft: 5 corp: 6/7b lim: 4 exec/s: 0 rss: 43Mb L: 2/2\n';
    const done = '#524288\tpulse  cov: 8 ft: 10 corp: 4/5Kb lim: 4096 exec/s: 262144\n';
    expect(progressOf(`INFO: Seed: 3\n${line}${done}Done 1 runs`, 9)).toEqual({
      ...{ executions: 524288, ms: 9, branches: 8, features: 10, inputs: 4, bytes: 5120 },
    });
    expect(progressOf('INFO: Seed: 3\n', 9)).toBeUndefined();
  });
});
