/** schemathesis on what E2B's clients are served: no request makes the server fail or answer against its document. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import type { Guest, GuestStats } from '../../src/machine/guest/guest.ts';
import { E2B_OPENAPI_FILE } from '../../tools/openapi.ts';
import { pythonPackages } from '../support/api-generators.ts';
import { openE2bWorld } from '../support/e2b-world.ts';
import { fuzzRest } from '../support/fuzz-rest.ts';
import { requires } from '../support/requires.ts';
import { runSeed } from '../support/run-seed.ts';

const SECONDS = 30;
const STATS: GuestStats = {
  cpuCount: 1,
  cpuBusyMs: 1,
  uptimeMs: 10,
  memoryTotalBytes: 2,
  memoryAvailableBytes: 1,
  userMemoryBytes: null,
  userProcesses: null,
  diskTotalBytes: 2,
  diskFreeBytes: 1,
  oomKills: null,
};

requires('generators', pythonPackages()).describe('E2B server', (packages) => {
  it('schemathesis finds no server error and no answer against the document', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'nv-e2b-fuzz-'));
    onTestFinished(() => rm(dir, { recursive: true }));
    // The world calls no webhook.
    await using world = await openE2bWorld({ eventsPath: join(dir, 'events.db') });
    // Without a process for each sandbox.
    world.control.guest = async () => ({ stats: async () => STATS }) as unknown as Guest;
    const { status, report } = await fuzzRest(packages, {
      url: world.url,
      key: world.apiKey,
      document: E2B_OPENAPI_FILE,
      seconds: SECONDS,
      seed: runSeed(),
    });
    expect(world.errors).toEqual([]);
    expect(status, report).toBe(0);
  });
});
