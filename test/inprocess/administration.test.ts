/** The audit logs over REST: our client at a server, with logs that a real bridge has written. */
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectDaemon } from '../../src/api/client/client.ts';
import { createApiServer } from '../../src/api/rest/server.ts';
import { type Administration, HomeAdministration } from '../../src/api/tenants/administration.ts';
import { AuditLog } from '../../src/api/tenants/audit.ts';
import type { AuditListing } from '../../src/api/tenants/audit-listing.ts';
import { type AuditRecord, parseRecord } from '../../src/api/tenants/audit-record.ts';
import { KeyStore } from '../../src/api/tenants/keys.ts';
import { HostStore, TenantStore } from '../../src/api/tenants/settings.ts';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { tenantAccount } from '../../src/base/request/model-limits.ts';
import { OwnerKeys } from '../../src/sandbox/store/owner-keys.ts';
import { sealingWith } from '../../src/sandbox/store/sealing.ts';
import { type AuditedBridge, auditedBridge } from '../support/audited-bridge.ts';
import { sendAnswer } from '../support/completions.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';

const cleanup = new CleanupStack();
let world: AuditedBridge;
let administration: Administration;
let calls: AuditLog;

const ask = async (content: string): Promise<void> => {
  await world.fixture.call('/v1/chat/completions', { model: 'm1', messages: [{ role: 'user', content }] });
};
/** Waits: contents have a log of their own, which may be written later. */
const contents = async (count: number): Promise<void> => {
  while ((await world.text('content')).split('\n').length <= count) await sleep(10);
};
beforeAll(async () => {
  world = await auditedBridge({ content: 'full', policy: { budget: { requests: 3 } } });
  cleanup.push('world', () => world.close());
  world.upstream.answer(({ body }, response) => sendAnswer(body, response, { text: 'hello' }));
  for (const content of ['first question', 'second question']) await ask(content);
  await world.records(2);
  await contents(2);
  const { home } = world;
  calls = await AuditLog.open({ homeDir: home, clock: systemClock, log: silentLog });
  cleanup.push('calls', () => calls[Symbol.asyncDispose]());
  const control = new FakeControlPlane();
  cleanup.push('control', () => control[Symbol.asyncDispose]());
  const [keys, tenants, host] = [new KeyStore(home, systemClock), new TenantStore(home), new HostStore(home)];
  const own = new HomeAdministration(home, { keys: () => keys, tenants: () => tenants, host: () => host });
  const server = await createApiServer({ control, administration: own, log: silentLog, apiKey: 'k', audit: calls });
  cleanup.push('server', () => server.close());
  const port = await server.listen({ port: 0 });
  const client = await connectDaemon({ url: `http://127.0.0.1:${port}`, apiKey: 'k' });
  cleanup.push('client', () => client[Symbol.asyncDispose]());
  administration = await client.administration();
});
afterAll(() => cleanup.run());

const list = async (listing: AuditListing = {}): Promise<AuditRecord[]> => {
  const all: AuditRecord[] = [];
  for await (const record of administration.audit(listing)) all.push(record);
  return all;
};
const numbers = async (listing: AuditListing): Promise<number[]> => (await list(listing)).map(({ seq }) => seq);
/** Records of control calls. */
const callsOf = async (call: string): Promise<AuditRecord[]> => {
  await calls.flush();
  const text = await readFile(join(world.home, 'audit', 'audit.jsonl'), 'utf8');
  return text
    .split('\n')
    .flatMap((line) => parseRecord(line) ?? [])
    .filter((one) => one.call === call);
};

describe('audit logs over REST', () => {
  it('lists what the file has, with filters and from a number on', async () => {
    expect(await list()).toEqual((await world.records(2)).map((record) => ({ ...record, log: 'acme' })));
    expect(await numbers({ tenant: 'acme', after: 1 })).toEqual([2]);
    expect(await numbers({ target: 'sandbox', tenant: 'acme', model: 'shop-m1', outcome: 'ok' })).toEqual([1, 2]);
    for (const none of [{ tenant: 'other' }, { outcome: 'refused' }, { sinceMs: Date.now() + 1000 }, { target: 'x' }]) {
      expect(await numbers(none)).toEqual([]);
    }
    expect(await callsOf('GET /v1/audit')).toEqual([]);
  });

  it('shows contents, and each such reading leaves a record', async () => {
    const records = await list({ content: true });
    expect(records[1]?.content).toMatchObject({ request: { body: { messages: [{ content: 'second question' }] } } });
    expect(await administration.auditedRequest(2, 'acme')).toMatchObject({
      record: { seq: 2 },
      content: { answer: { choices: [{ text: 'hello' }] } },
      isChanged: false,
    });
    expect(await callsOf('GET /v1/audit')).toMatchObject([{ key: 'daemon', status: 200 }]);
    expect(await callsOf('GET /v1/audit/:seq')).toMatchObject([{ key: 'daemon', target: 'acme 2', status: 200 }]);
    await expect(administration.auditedRequest(77)).rejects.toMatchObject({ code: 'not_found' });
    // The operator's log has no request.
    await expect(administration.auditedRequest(2)).rejects.toMatchObject({ code: 'not_found' });
  });

  it('follows new records until the reader leaves', async () => {
    const aborter = new AbortController();
    const seen: number[] = [];
    for await (const { seq } of administration.audit({
      tenant: 'acme',
      after: 1,
      follow: true,
      signal: aborter.signal,
    })) {
      seen.push(seq);
      if (seq === 2) await ask('third question');
      else aborter.abort();
    }
    expect(seen).toEqual([2, 3]);
  });

  it('finds a changed content', async () => {
    await world.records(3);
    await contents(3);
    expect(await administration.verifyAudit()).toMatchObject({
      ok: true,
      tenants: [{ tenant: 'acme', models: { records: 3 } }],
    });
    const path = world.path('content');
    await writeFile(path, (await readFile(path, 'utf8')).replace('second question', 'harmless one'));
    const changed = { ok: false, changedContents: [2] };
    expect(await administration.verifyAudit()).toMatchObject({ ok: false, changedContents: [], tenants: [changed] });
    expect(await administration.verifyAudit('acme')).toMatchObject({ ...changed, tenants: [] });
    expect(await administration.auditedRequest(2, 'acme')).toMatchObject({ isChanged: true });
  });

  it('a log that can’t be read is an error, not an empty list', async () => {
    const path = join(world.home, 'audit', 'models', 'audit-000000000001.jsonl');
    await mkdir(path);
    await expect(list()).rejects.toThrow(`could not read ${path}`);
    await rmdir(path);
  });
});

it('keys, quotas and settings: what one client sets, another reads', async () => {
  const home = administration;
  const { key, ...info } = await home.createKey('acme', 'ci', 60_000);
  expect(info.expiresAtMs).toBe(info.createdAtMs + 60_000);
  expect(key).toMatch(/^e2b_/);
  expect(await home.keys()).toEqual([info]);
  expect(await home.revokeKey(info.id)).toMatchObject({ id: info.id, revokedAtMs: expect.any(Number) });
  await expect(home.revokeKey('0'.repeat(12))).rejects.toMatchObject({ code: 'not_found' });
  await expect(home.createKey('acme', null, 1)).rejects.toMatchObject({ code: 'spec_invalid' });
  await expect(home.createKey('A', null)).rejects.toMatchObject({ code: 'spec_invalid' });
  const modelBudget = { costNanoDollars: 5, windowMs: 60_000 };
  await home.setTenant('acme', { sandboxes: 2, allowHosted: ['all'] });
  const changed = await home.setTenant('acme', { modelBudget });
  expect(changed).toMatchObject({ quotas: { sandboxes: 2, storageBytes: null }, allowHosted: ['all'], modelBudget });
  expect([await home.tenant('acme'), await home.tenants()]).toEqual([changed, [changed]]);
  expect(await home.settings()).toEqual({ modelBudget: null, cordoned: false });
  const saves = new OwnerKeys(join(world.home, 'data.keys'), sealingWith(new Uint8Array(32)));
  for (const owner of ['tenant acme', 'tenant other']) await saves.of(owner);
  const none = { endedSandboxes: 0, removedSnapshots: 0, removedVolumes: 0 };
  const windowMs = 10 * 365 * 24 * 3_600_000;
  const used = { inputTokens: 1, outputTokens: 1, requests: 1, costNanoDollars: 0 };
  const use = { ...used, windowMs, window: Math.floor(Date.now() / windowMs) };
  const kept = { [tenantAccount('acme')]: use, [tenantAccount('other')]: use };
  await writeFile(join(world.home, 'model-budgets.json'), JSON.stringify(kept));
  await home.createKey('other', null);
  await home.createKey('acme', null);
  expect(await home.removeTenant('acme')).toEqual({ name: 'acme', revokedKeys: 1, ...none, erasedSaves: true });
  // Its use of budgets is not a new tenant's.
  const budgets = await readFile(join(world.home, 'model-budgets.json'), 'utf8');
  expect(Object.keys(JSON.parse(budgets) as object)).toEqual([tenantAccount('other')]);
  expect(await readdir(join(world.home, 'data.keys'))).toEqual(['tenant.other']);
  expect(await home.tenants()).toEqual([]);
  expect(new TenantStore(world.home).list()).toEqual([]);
  const valid = (await home.keys()).filter(({ revokedAtMs }) => revokedAtMs === null);
  expect(valid.map(({ tenant }) => tenant)).toEqual(['other']);
  // Its revoked keys are still listed.
  expect(await home.removeTenant('acme')).toEqual({ name: 'acme', revokedKeys: 0, ...none, erasedSaves: false });
  await expect(home.removeTenant('nobody')).rejects.toMatchObject({ code: 'not_found' });
  await expect(home.removeTenant('A')).rejects.toMatchObject({ code: 'spec_invalid' });
  expect(await home.setSettings({ modelBudget })).toEqual({ modelBudget, cordoned: false });
  expect(new HostStore(world.home).get()).toEqual({ modelBudget, cordoned: false });
});
