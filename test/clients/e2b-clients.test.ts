/** Every unmodified client of E2B, as a program of its own, against our server; sandboxes are agents of this machine. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BuildFailure } from '../../src/api/e2b/errors.ts';
import { CLIENT_VERSIONS, E2B_CLIENTS_DIR, nodeClient, pythonClient, runWithClient } from '../support/e2b-clients.ts';
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

const EXPECTED = { stdout: 'hi you\n', exitCode: 0, text: 'content ä', names: ['a.txt'], killed: true };

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
    it.each(['sync', 'async'])('%s: creates a sandbox, runs a command, keeps a file', async (kind) => {
      const script = join(E2B_CLIENTS_DIR, 'first.py');
      const { stdout, stderr } = await runWithClient(client, world, script, [kind]);
      expect(stderr).toBe('');
      expect(JSON.parse(stdout)).toEqual(EXPECTED);
    });

    it.each(['sync', 'async'])('%s: builds, tags and finds a template', async (kind) => {
      mkdirSync(join(home, 'app'), { recursive: true });
      writeFileSync(join(home, 'app/main.py'), '');
      world.builds.onBuild = async ({ steps: [step] }) => {
        if (step?.kind === 'run' && step.command === 'fail') throw new BuildFailure(1, 'it failed');
      };
      const script = join(E2B_CLIENTS_DIR, 'templates.py');
      const { stdout, stderr } = await runWithClient(client, world, script, [kind, home]);
      expect(stderr).toBe('');
      expect(JSON.parse(stdout)).toEqual({
        exists: true,
        tags: ['production'],
        error: 'it failed',
        step: true,
        build: expect.stringMatching(/^[0-9a-f-]{36}$/),
      });
    });

    it('watches by questions, comes back to a command, gives up in time', async () => {
      const script = join(E2B_CLIENTS_DIR, 'edges.py');
      const { stdout, stderr } = await runWithClient(client, world, script);
      expect(stderr).toBe('');
      expect(JSON.parse(stdout)).toEqual({
        events: ['create', 'write'],
        content: [0, 255],
        metadata: { author: 'me' },
        ended: { exit: 5, stdout: 'later\n' },
        late: 'too late',
        streamed: version === 'newest' ? 'ab' : null,
        killed: true,
      });
    });
  });
}

describe('the server', () => {
  it('logs no error', () => expect(world.errors).toEqual([]));
});
