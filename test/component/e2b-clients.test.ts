/** Every unmodified client of E2B, as a program of its own, against our server; sandboxes are agents of this machine. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  CLIENT_VERSIONS,
  E2B_CLIENTS_DIR,
  nodeClient,
  pythonClient,
  runWithClient,
} from '../support/e2b-clients.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';
import { requires } from '../support/requires.ts';

let world: E2bWorld;
let home: string;

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'nv-e2b-clients-'));
  world = await openE2bWorld({ home });
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  rmSync(home, { recursive: true, force: true });
});

const EXPECTED = {
  stdout: 'hi you\n',
  exitCode: 0,
  text: 'content ä',
  names: ['a.txt'],
  killed: true,
};

for (const version of CLIENT_VERSIONS) {
  requires('generators', nodeClient(version)).describe(`JavaScript ${version}`, (client) => {
    it('creates a sandbox, runs a command, keeps a file', async () => {
      const script = join(E2B_CLIENTS_DIR, 'first.mjs');
      const { stdout, stderr } = await runWithClient(client, world, script);
      expect(stderr).toBe('');
      expect(JSON.parse(stdout)).toEqual(EXPECTED);
    });
  });

  requires('generators', pythonClient(version)).describe(`Python ${version}`, (client) => {
    it.each(['sync', 'async'])(
      '%s: creates a sandbox, runs a command, keeps a file',
      async (kind) => {
        const script = join(E2B_CLIENTS_DIR, 'first.py');
        const { stdout, stderr } = await runWithClient(client, world, script, [kind]);
        expect(stderr).toBe('');
        expect(JSON.parse(stdout)).toEqual(EXPECTED);
      },
    );
  });
}

describe('the server', () => {
  it('logs no error', () => expect(world.errors).toEqual([]));
});
