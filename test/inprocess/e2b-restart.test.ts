/** E2B's control plane on the real one with its store, whose process is killed. No VMs. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { NotFoundError, Sandbox } from 'e2b';
import { expect, it } from 'vitest';
import { openEvents } from '../../src/api/e2b/events/open.ts';
import { createE2bServer } from '../../src/api/e2b/server.ts';
import { accessTokens } from '../../src/api/e2b/tokens.ts';
import { createApiServer } from '../../src/api/rest/server.ts';
import { operatorOnly } from '../../src/api/tenants/callers.ts';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { silentLog } from '../../src/base/log.ts';
import { FakeHost } from '../support/fake-host.ts';
import { NOTHING, requireNothing } from '../support/fake-leftovers.ts';
import { temporaryDir } from '../support/store.ts';

const API_KEY = `e2b_${'0'.repeat(40)}`;
const TOKEN_KEY = Buffer.alloc(32, 7);

interface Daemon extends AsyncDisposable {
  readonly host: FakeHost;
  readonly events: ReturnType<typeof openEvents>;
  readonly client: { readonly apiKey: string; readonly apiUrl: string; readonly sandboxUrl: string };
  /** Like `kill -9`. */
  kill(): Promise<void>;
}

async function startDaemon(dataDir: string, owner: string, left?: string[]): Promise<Daemon> {
  const isOwnerAlive = async (one: string): Promise<boolean> => left !== undefined && one === owner;
  const host = await FakeHost.open({ dataDir, owner, isOwnerAlive, ...(left && { left }) });
  const { control, clock } = host;
  const callers = operatorOnly(control, API_KEY);
  const events = openEvents({
    path: `${dataDir}.events.db`,
    control,
    clock,
    log: silentLog,
    post: async () => undefined,
  });
  const e2b = await createE2bServer({
    control,
    clock,
    callers,
    events,
    log: silentLog,
    tokens: accessTokens(TOKEN_KEY),
    domain: () => 'localhost',
  });
  const api = await createApiServer({ control, callers, log: silentLog, apiKey: API_KEY, beside: e2b });
  const url = `http://127.0.0.1:${await api.listen({ port: 0 })}`;
  await control.adopt();
  await events.begin();
  const cleanup = new CleanupStack();
  cleanup.push('events', () => events[Symbol.asyncDispose]());
  cleanup.push('E2B server', () => e2b[Symbol.asyncDispose]());
  cleanup.push('server', () => api.close());
  return {
    host,
    events,
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

it('a paused sandbox survives the daemon, and is reached by the same id and token', async () => {
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
  expect(listed).toMatchObject([{ sandboxId: sandbox.sandboxId, state: 'paused', metadata: { of: 'test' } }]);
  const again = await Sandbox.connect(sandbox.sandboxId, { ...second.client, timeoutMs: 120_000 });
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

it('a daemon killed with 20 sandboxes: those on disk are adopted, the others are gone for every client', async () => {
  const RUNNING = 12;
  const PAUSED = 8;
  const dataDir = await temporaryDir();
  const first = await startDaemon(dataDir, 'first');
  const options = { ...first.client, timeoutMs: 600_000, allowInternetAccess: false };
  const made = await Promise.all(
    Array.from({ length: RUNNING + PAUSED }, async (_, n) => {
      const sandbox = await Sandbox.create('agent', { ...options, metadata: { n: `${n}` } });
      await (await first.host.guest(sandbox.sandboxId)).remember(`thing ${n}`);
      return sandbox;
    }),
  );
  const [lost, kept] = [made.slice(0, RUNNING), made.slice(RUNNING)];
  await Promise.all(kept.map((one) => one.pause()));
  const snapshot = await lost[0]?.createSnapshot();
  await first.kill();

  await using second = await startDaemon(dataDir, 'second');
  const { client, host } = second;
  const ask = async (path: string, headers: Record<string, string> = {}) => {
    const answer = await fetch(`${client.apiUrl}${path}`, { headers: { 'x-api-key': API_KEY, ...headers } });
    return { status: answer.status, body: (await answer.json()) as never };
  };
  const ids = (sandboxes: readonly { sandboxId: string }[]): string[] =>
    sandboxes.map(({ sandboxId }) => sandboxId).sort();
  const listed = await Sandbox.list(client).nextItems();
  expect(ids(listed)).toEqual(ids(kept));
  expect(new Set(listed.map(({ state }) => state))).toEqual(new Set(['paused']));
  expect(await host.holdings()).toEqual(NOTHING);

  for (const { sandboxId } of lost) {
    await expect(Sandbox.connect(sandboxId, client)).rejects.toThrow(NotFoundError);
    await expect(Sandbox.getInfo(sandboxId, client)).rejects.toThrow(NotFoundError);
    expect(await Sandbox.kill(sandboxId, client)).toBe(false);
    const port = { 'e2b-sandbox-id': sandboxId, 'e2b-sandbox-port': '8080' };
    expect(await ask('/', port)).toMatchObject({ status: 502 });
    const programs = { ...port, 'e2b-sandbox-port': '49983' };
    expect(await ask('/health', programs)).toMatchObject({ status: 502 });
    const query = 'types=sandbox.lifecycle.killed';
    expect(await ask(`/events/sandboxes/${sandboxId}?${query}`)).toMatchObject({
      status: 200,
      body: [{ type: 'sandbox.lifecycle.killed', sandboxId }],
    });
  }
  const killed = await ask('/events/sandboxes?types=sandbox.lifecycle.killed&limit=100');
  expect(killed.body).toHaveLength(RUNNING);

  for (const [n, { sandboxId }] of kept.entries()) {
    const again = await Sandbox.connect(sandboxId, { ...client, timeoutMs: 600_000 });
    expect(await (await host.guest(sandboxId)).recall()).toBe(`thing ${RUNNING + n}`);
    expect(await again.isRunning()).toBe(true);
  }
  const copy = await Sandbox.create(snapshot?.snapshotId ?? '', client);
  expect(await (await host.guest(copy.sandboxId)).recall()).toBe('thing 0');
  await requireNothing(host);
});

it('a sandbox whose rules are lost with the daemon is resumed after they are set again', async () => {
  const dataDir = await temporaryDir();
  const first = await startDaemon(dataDir, 'first');
  const list = { allowOut: ['a.com'], denyOut: ['0.0.0.0/0'] };
  const value = 'Bearer sk-0123456789abcdef';
  const rules = { 'a.com': [{ transform: { headers: { Authorization: value } } }] };
  const network = { ...list, rules };
  const sandbox = await Sandbox.create('agent', { ...first.client, network });
  await sandbox.pause();
  await first.kill();
  for (const file of await filesBelow(dataDir)) {
    expect((await readFile(file)).includes('sk-0123'), file).toBe(false);
  }

  await using second = await startDaemon(dataDir, 'second');
  const id = sandbox.sandboxId;
  await expect(Sandbox.connect(id, second.client)).rejects.toThrow(/409: .*Authorization.*rules/);
  await expect(Sandbox.updateNetwork(id, { rules }, second.client)).rejects.toThrow('409');
  await Sandbox.updateNetwork(id, network, second.client);
  const again = await Sandbox.connect(id, second.client);
  expect((await again.getInfo()).network).toMatchObject({
    ...list,
    rules: { 'a.com': [{ transform: { headers: { Authorization: '[hidden]' } } }] },
  });
  const [fork] = await again.fork();
  if (!(fork instanceof Sandbox)) throw new Error('no fork');
  const { secrets } = await second.host.control.get(fork.sandboxId);
  expect(secrets).toMatchObject([{ sets: 'Authorization', held: true }]);
});

async function filesBelow(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  return entries.filter((one) => one.isFile()).map(({ parentPath, name }) => join(parentPath, name));
}

/** The token for programs and files of the sandbox. */
function tokenOf(sandbox: Sandbox): unknown {
  return Reflect.get(sandbox, 'envdAccessToken');
}

it('a sandbox that is taken over has no second `created`, and no `killed` before its end', async () => {
  const dataDir = await temporaryDir();
  const first = await startDaemon(dataDir, 'first', []);
  const options = { timeoutMs: 60_000, allowInternetAccess: false };
  const kept = await Sandbox.create('agent', { ...first.client, ...options });
  const lost = await Sandbox.create('agent', { ...first.client, ...options });
  await first.kill();

  await using second = await startDaemon(dataDir, 'second', [kept.sandboxId]);
  const made = await Sandbox.create('agent', { ...second.client, ...options });
  await Sandbox.kill(kept.sandboxId, second.client);
  const of = ({ sandboxId }: Sandbox): string[] => {
    const filter = { tenant: null, sandboxId, offset: 0, limit: 10, isAscending: true };
    return second.events.journal.list(filter).map(({ type }) => type.replace('sandbox.lifecycle.', ''));
  };
  expect([of(kept), of(lost), of(made)]).toEqual([['created', 'killed'], ['created', 'killed'], ['created']]);
});
