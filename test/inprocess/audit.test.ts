/** The audit log of calls to both interfaces. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectDaemon } from '../../src/api/client/client.ts';
import { AuditLog } from '../../src/api/tenants/audit.ts';
import { type AuditRecord, parseRecord } from '../../src/api/tenants/audit-record.ts';
import { verifyAudit } from '../../src/api/tenants/audit-verify.ts';
import { KeyStore } from '../../src/api/tenants/keys.ts';
import { Tenancy } from '../../src/api/tenants/tenancy.ts';
import { systemClock } from '../../src/base/clock.ts';
import { ifThere } from '../../src/base/errors.ts';
import { silentLog } from '../../src/base/log.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';

let home: string;
let world: E2bWorld;
let audit: AuditLog;
let key: string;
let keyId: string;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-audit-'));
  audit = await AuditLog.open({ homeDir: home, clock: systemClock, log: silentLog });
  const keys = new KeyStore(home, systemClock);
  world = await openE2bWorld({ home }, (control, apiKey) => new Tenancy({ control, keys, apiKey }), audit);
  ({ key, id: keyId } = keys.create('acme', null));
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  await audit[Symbol.asyncDispose]();
  await rm(home, { recursive: true, force: true });
});

const textOf = async (): Promise<string> => {
  await audit.flush();
  const read = (dir: string) => readFile(join(home, 'audit', dir, 'audit.jsonl'), 'utf8');
  return (await read('')) + ((await ifThere(read('tenants/acme'))) ?? '');
};
/** All records so far, once there is one of this call. */
async function recordsWith(call: string): Promise<AuditRecord[]> {
  const read = async () =>
    (await textOf())
      .trimEnd()
      .split('\n')
      .flatMap((line) => parseRecord(line) ?? []);
  await expect.poll(async () => (await read()).map((one) => one.call)).toContain(call);
  return await read();
}

describe('audit log', () => {
  it('has calls of E2B’s client, with tenant, key and sandbox', async () => {
    const sandbox = await Sandbox.create('agent', { ...world.client, apiKey: key });
    const id = sandbox.sandboxId;
    await sandbox.kill();
    const records = await recordsWith('DELETE /sandboxes/:sandboxID');
    const who = { tenant: 'acme', key: keyId, target: id };
    expect(records.filter(({ target }) => target === id)).toMatchObject([
      { ...who, call: expect.stringMatching(/^POST \/(v2\/)?sandboxes$/), status: 201 },
      { ...who, call: 'DELETE /sandboxes/:sandboxID', status: 204 },
    ]);
  });

  it('has calls of our client and its tunnels; reading leaves no record', async () => {
    await using control = await connectDaemon({ url: world.url, apiKey: key });
    const { id } = await control.create({ metadata: { note: 'SECRET-IN-BODY' } });
    const guest = await control.guest(id);
    await guest.files.list('/');
    await control.list();
    await control.remove(id);
    const records = await recordsWith('DELETE /v1/sandboxes/:id');
    expect(records.filter(({ target }) => target === id)).toMatchObject([
      { call: 'POST /v1/sandboxes', status: 201 },
      { call: 'UPGRADE /v1/sandboxes/:id', status: 101 },
      { call: 'DELETE /v1/sandboxes/:id', status: 200 },
    ]);
  });

  it('has refusals, of unknown callers without a tenant, and never keys, queries or bodies', async () => {
    const headers = { 'x-api-key': 'e2b_SECRETKEY', 'content-type': 'application/json' };
    const body = '{"metadata":{"a":"SECRET-IN-BODY"}}';
    const url = `${world.url}/v1/sandboxes?q=SECRET-IN-QUERY`;
    expect((await fetch(url, { method: 'POST', headers, body })).status).toBe(401);
    const lost = `${world.url}/v1/SECRET-PATH`;
    await fetch(lost, { method: 'POST', headers: { 'x-api-key': key } });
    const records = await recordsWith('POST (no route)');
    expect(records).toContainEqual(
      expect.objectContaining({ tenant: null, key: null, call: 'POST /v1/sandboxes', status: 401 }),
    );
    const text = await textOf();
    expect(text).not.toContain('SECRET');
    expect(text).not.toContain(key.slice(4, 24));
    for (const tenant of [null, 'acme']) {
      expect(await verifyAudit(home, { tenant })).toMatchObject({ problems: [] });
    }
  });

  it('logs no error', () => expect(world.errors).toEqual([]));
});
