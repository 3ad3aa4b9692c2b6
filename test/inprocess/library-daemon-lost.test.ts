/** The library while its daemon starts, after it was killed, and once it is back. */
import { mkdir } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createApiServer } from '../../src/api/rest/server.ts';
import { daemonSocket, resolveHome } from '../../src/base/home.ts';
import { silentLog } from '../../src/base/log.ts';
import { Hosts } from '../../src/cli/library/hosts.ts';
import { tryLockDaemon } from '../../src/host/runtime/daemon-lock.ts';
import { Sandbox } from '../../src/index.ts';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { NO_EVIDENCE } from '../../src/sandbox/contract/ending.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';

const before = { ...process.env };
let daemon: FakeDaemon;
beforeEach(async () => {
  daemon = await startFakeDaemon();
  Object.assign(process.env, daemon.env);
});
afterEach(async () => {
  process.env = before;
  await daemon[Symbol.asyncDispose]();
});

const isSettled = async (work: Promise<unknown>): Promise<boolean> =>
  await Promise.race([work.then(() => true), Promise.resolve(false)]);

it('Hosts, Sandbox: a killed daemon is host-lost, and the next use falls back to this process', async () => {
  const hosts = new Hosts();
  expect(await hosts.open({})).toMatchObject({ guestsLast: true });
  const sandbox = await Sandbox.create();
  await daemon.stop();
  expect(await hosts.open({})).toMatchObject({ guestsLast: false });
  expect(await sandbox.ended).toMatchObject({ cause: 'host-lost' });
  await expect(sandbox.exec(['true'])).rejects.toMatchObject({ code: 'gone' });
});

it('Sandbox.ended: a process that waits for the end learns that the daemon was killed', async () => {
  const sandbox = await Sandbox.create();
  const { ended } = sandbox;
  await sandbox.exec(['true']);
  expect(await isSettled(ended)).toBe(false);
  await daemon.stop();
  expect(await ended).toMatchObject({ cause: 'host-lost' });
});

it('Sandbox.ended: … also from the next daemon of the home', async () => {
  const sandbox = await Sandbox.create();
  const { ended } = sandbox;
  await sandbox.exec(['true']);
  const info = await sandbox.info();
  await daemon.stop();
  await using next = new NextDaemon(info);
  await using server = await createApiServer({ control: next, log: silentLog });
  await server.listen({ socketPath: daemonSocket(resolveHome(daemon.env['NEUROVISOR_HOME'] ?? '')) });
  expect(await ended).toMatchObject({ cause: 'host-lost' });
});

it('Sandbox.ended: a sandbox on disk survives its daemon', async () => {
  const sandbox = await Sandbox.create();
  await sandbox.pause({ to: 'disk' });
  const { ended } = sandbox;
  await sandbox.info();
  await daemon.stop();
  await using next = new FakeControlPlane();
  const interrupted = Promise.withResolvers<void>();
  Object.defineProperty(next, 'get', {
    value: async () => {
      interrupted.resolve();
      return { ...info, status: 'paused', pausedTo: 'disk' };
    },
  });
  const info = await next.create({});
  await using server = await createApiServer({ control: next, log: silentLog });
  await server.listen({ socketPath: daemonSocket(resolveHome(daemon.env['NEUROVISOR_HOME'] ?? '')) });
  await interrupted.promise;
  expect(await isSettled(ended)).toBe(false);
});

it('Hosts: waits for a daemon that is starting, if it requires one', async () => {
  const home = resolveHome(daemon.env['NEUROVISOR_HOME'] ?? '');
  await daemon.stop();
  await mkdir(home.runDir, { recursive: true });
  await expect(new Hosts().open({ daemon: 'require' })).rejects.toMatchObject({ code: 'daemon_unreachable' });
  const release = tryLockDaemon(home);
  const hosts = new Hosts();
  const abort = new AbortController();
  const aborted = hosts.open({ daemon: 'require', signal: abort.signal });
  const opening = hosts.open({ daemon: 'require' });
  abort.abort();
  await expect(aborted).rejects.toMatchObject({ name: 'AbortError' });
  expect(await isSettled(opening)).toBe(false);
  await using next = new FakeControlPlane();
  await using server = await createApiServer({ control: next, log: silentLog });
  await server.listen({ socketPath: daemonSocket(home) });
  expect(await opening).toMatchObject({ guestsLast: true });
  release?.();
});

/** A daemon that knows a sandbox of the previous one, which was killed. */
class NextDaemon extends FakeControlPlane {
  readonly #info: SandboxInfo;

  constructor(info: SandboxInfo) {
    super();
    const end = { cause: 'host-lost', detail: '', atMs: 1, evidence: NO_EVIDENCE } as const;
    this.#info = { ...info, status: 'ended', end };
  }

  override async get(): Promise<SandboxInfo> {
    return this.#info;
  }
}
