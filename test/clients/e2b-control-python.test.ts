/** E2B's control plane by its unmodified Python client, newest and of the generation before. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CLIENT_VERSIONS, E2B_CLIENTS_DIR, pythonClient, runWithClient } from '../support/e2b-clients.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';
import { requires } from '../support/requires.ts';

const EXPECTED = {
  listed: true,
  metadata: true,
  none: true,
  state: 'running',
  closed: false,
  left: true,
  'never shorter': true,
  paused: true,
  'not running': false,
  connected: true,
  snapshots: true,
  deleted: [true, false],
  forks: [true, true],
  denied: true,
  rules: { 'a.com': [{ transform: { headers: { Authorization: '[hidden]' } } }] },
  metrics: 1,
  volumes: ['v'],
  destroyed: [true, false],
  errors: {
    template: 'SandboxException',
    info: 'SandboxNotFoundException',
    volume: 'VolumeException',
    network: 'SandboxException',
    key: 'AuthenticationException',
    secret: 'SecretException',
  },
  killed: [true, false, true],
};

let world: E2bWorld;
beforeAll(async () => {
  world = await openE2bWorld();
});
afterAll(() => world[Symbol.asyncDispose]());

for (const version of CLIENT_VERSIONS) {
  requires('generators', pythonClient(version)).describe(`Python ${version}`, (client) => {
    it('lists, times out, pauses, copies and is refused as at E2B', async () => {
      const script = join(E2B_CLIENTS_DIR, 'control.py');
      const { stdout, stderr } = await runWithClient(client, world, script);
      expect(stderr).toBe('');
      const { same, ...result } = JSON.parse(stdout) as Record<string, unknown>;
      // Only the newest has keys for repeated requests.
      expect(same).toBe(version === 'newest' ? true : undefined);
      expect(result).toEqual(EXPECTED);
    });
  });
}

describe('the server', () => {
  it('logs no error', () => expect(world.errors).toEqual([]));
});
