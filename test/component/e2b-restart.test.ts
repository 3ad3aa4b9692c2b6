/** E2B's control plane on the real one with its store, whose process is killed. No VMs. */
import { Sandbox } from 'e2b';
import { expect, it } from 'vitest';
import { createApiServer } from '../../src/api/server.ts';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { silentLog } from '../../src/base/log.ts';
import { createE2bServer } from '../../src/e2b/server.ts';
import { accessTokens } from '../../src/e2b/tokens.ts';
import { operatorOnly } from '../../src/tenants/callers.ts';
import { FakeHost } from '../support/fake-host.ts';
import { temporaryDir } from '../support/store.ts';

const API_KEY = `e2b_${'0'.repeat(40)}`;
const TOKEN_KEY = Buffer.alloc(32, 7);

interface Daemon extends AsyncDisposable {
  readonly host: FakeHost;
  readonly client: {
    readonly apiKey: string;
    readonly apiUrl: string;
    readonly sandboxUrl: string;
  };
  /** As `kill -9` does. */
  kill(): Promise<void>;
}

async function startDaemon(dataDir: string, owner: string): Promise<Daemon> {
  const host = await FakeHost.open({ dataDir, owner, isOwnerAlive: async () => false });
  const { control, clock } = host;
  const callers = operatorOnly(control, API_KEY);
  const e2b = await createE2bServer({
    control,
    clock,
    callers,
    log: silentLog,
    tokens: accessTokens(TOKEN_KEY),
    domain: () => 'localhost',
  });
  const api = await createApiServer({
    control,
    callers,
    log: silentLog,
    apiKey: API_KEY,
    beside: e2b,
  });
  const url = `http://127.0.0.1:${await api.listen({ port: 0 })}`;
  const cleanup = new CleanupStack();
  cleanup.push('E2B server', () => e2b[Symbol.asyncDispose]());
  cleanup.push('server', () => api.close());
  return {
    host,
    client: { apiKey: API_KEY, apiUrl: url, sandboxUrl: url },
    kill: async () => {
      await cleanup.run();
      await host.kill();
    },
    [Symbol.asyncDispose]: async () => {
      await cleanup.run();
      await host[Symbol.asyncDispose]();
    },
  };
}

it('a paused sandbox outlives the daemon, and is reached by the same id and token', async () => {
  const dataDir = await temporaryDir();
  const first = await startDaemon(dataDir, 'first');
  const network = { allowPublicTraffic: false };
  const options = { timeoutMs: 60_000, allowInternetAccess: false, metadata: { of: 'test' } };
  const sandbox = await Sandbox.create('agent', { ...first.client, ...options, network });
  const lost = await Sandbox.create('agent', { ...first.client, ...options });
  await (await first.host.guest(sandbox.sandboxId)).remember('a thing');
  await sandbox.pause();
  await first.kill();

  await using second = await startDaemon(dataDir, 'second');
  const listed = await Sandbox.list(second.client).nextItems();
  expect(listed).toMatchObject([
    { sandboxId: sandbox.sandboxId, state: 'paused', metadata: { of: 'test' } },
  ]);
  const again = await Sandbox.connect(sandbox.sandboxId, {
    ...second.client,
    timeoutMs: 120_000,
  });
  expect(await (await second.host.guest(again.sandboxId)).recall()).toBe('a thing');
  expect(again.trafficAccessToken).toBe(sandbox.trafficAccessToken);
  expect(tokenOf(again)).toBe(tokenOf(sandbox));
  const info = await again.getInfo();
  expect(info).toMatchObject({ state: 'running', network, allowInternetAccess: false });
  const { endsAtMs } = await second.host.control.get(again.sandboxId);
  expect(endsAtMs).toBe(second.host.clock.wall() + 120_000);
  await expect(Sandbox.getInfo(lost.sandboxId, second.client)).rejects.toThrow('not found');
  expect(await Sandbox.kill(lost.sandboxId, second.client)).toBe(false);
  expect(await Sandbox.kill(again.sandboxId, second.client)).toBe(true);
});

/** What it shows to programs and files of the sandbox. */
function tokenOf(sandbox: Sandbox): unknown {
  return Reflect.get(sandbox, 'envdAccessToken');
}
