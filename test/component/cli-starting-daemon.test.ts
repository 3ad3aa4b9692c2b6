/** Commands while a daemon holds the lock of its home but does not listen yet. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createApiServer } from '../../src/api/rest/server.ts';
import { daemonSocket, resolveHome } from '../../src/base/home.ts';
import { silentLog } from '../../src/base/log.ts';
import { tryLockDaemon } from '../../src/host/runtime/daemon-lock.ts';
import { type CliRun, cli } from '../support/cli.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';

const WAITING = 'waiting for the daemon of this home';

let dir: string;
let release: () => void;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-starting-'));
  release = tryLockDaemon({ dir }) ?? expect.fail('a lock in a folder of our own');
});
afterEach(() => rm(dir, { recursive: true }));

const run = (...words: string[]): CliRun => cli(words, { env: { NEUROVISOR_HOME: dir } });

it.each([[['ls']], [['run', '--daemon', '-c', 'print(1)']]])('%j waits for a starting daemon', async (words) => {
  const waiting = run(...words);
  const quiet = run('host', '-o', 'json');
  await waiting.seen(WAITING, 'stderr');
  const home = resolveHome(dir);
  await mkdir(home.runDir, { recursive: true });
  await using control = new FakeControlPlane();
  await using server = await createApiServer({ control, log: silentLog });
  await server.listen({ socketPath: daemonSocket(home) });
  expect((await waiting.result).status).toBe(0);
  expect(await quiet.result).toMatchObject({ status: 0, stderr: '' });
  release();
});

it('fails if the starting daemon ends instead', async () => {
  const waiting = run('ls');
  await waiting.seen(WAITING, 'stderr');
  release();
  const { status, stderr } = await waiting.result;
  expect(status).toBe(125);
  expect(stderr).toContain('no daemon is running');
});
