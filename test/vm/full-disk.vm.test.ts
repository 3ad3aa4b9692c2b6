/** The host's file system fills up under a guest that writes. In a private mount namespace, so as root only. */
import { execFile } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect } from 'vitest';
import { type MockUpstream, startMockUpstream } from '../support/mock-upstream.ts';
import { requiresRoot } from '../support/requires.ts';
import { temporaryHome } from '../support/vm.ts';

const HOST = new URL('../fixtures/full-disk-host.ts', import.meta.url).pathname;
const UNSHARE = ['--mount', '--propagation', 'private'];
const SIZE_MIB = 40;
const BALLAST_MIB = 24;

let home = '';
let upstream: MockUpstream;
beforeAll(async () => {
  home = await temporaryHome();
  upstream = await startMockUpstream();
  await mkdir(join(home, 'run'), { mode: 0o700 });
});
afterAll(async () => {
  await upstream.close();
  await rm(home, { recursive: true });
});

/** `run` of the home is a small file system there. */
async function onSmallDisk(command: readonly string[]): Promise<string> {
  const script = 'mount -t tmpfs -o "size=$2m,mode=0700" none "$1" && shift 2 && exec "$@"';
  const args = [...UNSHARE, 'sh', '-c', script, 'sh', join(home, 'run'), `${SIZE_MIB}`, ...command];
  return (await promisify(execFile)('unshare', args)).stdout;
}

requiresRoot().it('a sandbox on a full host is paused, and continues without loss once there is space', async () => {
  const url = upstream.target.baseUrl ?? '';
  const told = JSON.parse(await onSmallDisk([process.execPath, HOST, home, url, `${BALLAST_MIB}`]));
  expect(told).toMatchObject({ status: 'paused', pausedTo: 'memory' });
  expect(told.seen.slice(0, 2)).toMatchObject([
    { type: 'disk_full', path: expect.stringMatching(/\/run\/.*disk\.ext4$/) },
    { type: 'action', action: 'pause', ok: true },
  ]);
  expect(told).toMatchObject({ exitCode: 0, stdout: 'True\n', after: 'running' });
});
