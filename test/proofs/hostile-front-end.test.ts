/** Malicious front ends against the real vsock devices: briefly. Longer: `node tools/hostile-front-end.ts --time 10m`. Needs gcc. */
import { expect, it } from 'vitest';
import { runHostileFrontEnds } from '../support/hostile-front-ends.ts';
import { runSeed } from '../support/run-seed.ts';

const MS = 20_000;

it('vsock devices: live through hostile front ends, leak nothing, and a polite VM is always answered', async () => {
  const { sessions, connections, bytes, echoMs } = await runHostileFrontEnds({ seed: runSeed(), ms: MS });
  // They came as far as the rings and the host's programs.
  expect(connections).toBeGreaterThan(sessions);
  expect(bytes).toBeGreaterThan(0);
  expect(echoMs.length).toBeGreaterThan(0);
});
