/** Sandboxes at work while their daemon, its launcher and their VMMs are killed. 30 minutes of it: `node tools/chaos.ts`. */
import { describe, expect, it } from 'vitest';
import { runChaos } from '../support/chaos.ts';
import { useDaemonHome } from '../support/daemon.ts';
import { isFullRun } from '../support/full-run.ts';
import { runSeed } from '../support/run-seed.ts';

describe('faults at random', () => {
  const home = useDaemonHome();

  it('nothing is lost, and nothing is left', async () => {
    const { failures, left, checks, log } = await runChaos({
      home,
      seed: runSeed(),
      ms: isFullRun() ? 600_000 : 90_000,
    });
    expect({ failures, left, log }).toEqual({ failures: [], left: [], log: expect.anything() });
    expect([...checks.keys()].toSorted()).toEqual(['counter', 'models', 'port', 'saves', 'stream', 'victim', 'volume']);
  });
});
