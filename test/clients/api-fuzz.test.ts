/**
 * schemathesis on a live daemon with fake VMs: what the document allows and what it forbids, one operation at a time
 * and in sequences (create, pause, resume, snapshot, fork, pools, exec, files). The seed is the run's. A longer run,
 * also on a real daemon: `tools/fuzz-rest.ts`.
 */
import { expect, it } from 'vitest';
import { pythonPackages } from '../support/api-generators.ts';
import { fuzzRest } from '../support/fuzz-rest.ts';
import { requires } from '../support/requires.ts';
import { openRestWorld } from '../support/rest-world.ts';
import { runSeed } from '../support/run-seed.ts';

const SECONDS = 40;

requires('generators', pythonPackages()).describe('REST server', (packages) => {
  it('schemathesis finds no server error and no answer against the document', async () => {
    await using rest = await openRestWorld();
    const { url, key } = rest;
    const { status, report } = await fuzzRest(packages, { url, key, seconds: SECONDS, seed: runSeed() });
    expect(rest.errors).toEqual([]);
    expect(status, report).toBe(0);
    for (const phase of ['Examples', 'Coverage', 'Fuzzing', 'Stateful']) {
      expect(report).toMatch(new RegExp(`✅ +${phase}`));
    }
    // On a busy machine only some of the links between operations; dozens on an idle one.
    expect(Number(/(\d+) covered/.exec(report)?.[1])).toBeGreaterThan(0);
  });
});
