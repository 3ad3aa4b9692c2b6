/** Secrets that outlive sandboxes: who may name, replace and remove one. No VMs, but the store and the REST server. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { connectDaemon } from '../../src/api/client/client.ts';
import { createApiServer } from '../../src/api/rest/server.ts';
import { removeOwned } from '../../src/api/tenants/administration.ts';
import { SECRETS_MAX } from '../../src/api/tenants/limits.ts';
import { tenantPlane } from '../../src/api/tenants/plane.ts';
import { silentLog } from '../../src/base/log.ts';
import { secrets } from '../../src/cli/library/secrets.ts';
import { FakeHost } from '../support/fake-host.ts';

const VALUE = 'sk-live-0123456789abcdef';
const NEXT = 'sk-next-0123456789abcdef';
const KEY = { name: 'KEY', value: VALUE };
const USE = { secrets: [{ name: 'KEY', hosts: ['a.example'], stored: 'KEY' }] };

async function open() {
  const changed: string[] = [];
  const host = await FakeHost.open({ onSecret: async (name) => void changed.push(name) });
  const acme = tenantPlane(host.control, 'acme');
  return { host, control: host.control, acme, other: tenantPlane(host.control, 'other'), changed };
}

it('create: a sandbox names a stored secret, and keeps only its name', async () => {
  const { host, control } = await open();
  await using _host = host;
  await control.secrets.set(KEY);
  const made = await control.create(USE);
  expect(made.secrets).toEqual([{ name: 'KEY', hosts: ['a.example'], places: [], stored: 'KEY', held: true }]);
  await control.pause(made.id, 'disk');
  await control.resume(made.id);
  const [fork] = await control.fork(made.id, { count: 1 });
  expect(fork).toMatchObject({ ok: true, sandbox: { secrets: [{ stored: 'KEY', held: true }] } });
  const [listed] = await control.secrets.list();
  expect(listed?.sandboxes).toHaveLength(2);
  expect(JSON.stringify([made, listed])).not.toContain(VALUE);
  expect(readFileSync(join(host.dataDir, 'store.db')).includes(VALUE)).toBe(false);
});

it('create, update: an unknown secret is refused with a remedy', async () => {
  const { host, control } = await open();
  await using _host = host;
  const missing = { code: 'secrets_missing', remedy: expect.stringContaining('neurovisor secret create KEY') };
  await expect(control.create(USE)).rejects.toMatchObject(missing);
  const { id } = await control.create({});
  await expect(control.update(id, USE)).rejects.toMatchObject(missing);
  expect(await control.list()).toHaveLength(1);
});

it('set: a new value reaches the gateway, and a taken name is refused', async () => {
  const { host, control, changed } = await open();
  await using _host = host;
  await control.secrets.set(KEY);
  await expect(control.secrets.set({ ...KEY, value: NEXT })).rejects.toMatchObject({ code: 'name_taken' });
  await control.secrets.set({ ...KEY, value: NEXT, replace: true });
  expect(changed).toEqual(['KEY', 'KEY']);
});

it('remove: a used secret is kept unless forced', async () => {
  const { host, control, changed } = await open();
  await using _host = host;
  await control.secrets.set(KEY);
  const { id } = await control.create(USE);
  const inUse = { code: 'in_use', message: expect.stringContaining(id), remedy: expect.stringContaining('--force') };
  await expect(control.secrets.remove('KEY')).rejects.toMatchObject(inUse);
  await control.secrets.remove('KEY', true);
  expect(await control.secrets.list()).toEqual([]);
  expect(changed).toEqual(['KEY', 'KEY']);
});

it.each([
  ['a name that begins with a digit', { name: '1KEY', value: VALUE }],
  ['a name with a space', { name: 'a b', value: VALUE }],
  ['a long name', { name: 'K'.repeat(65), value: VALUE }],
  ['a short value', { name: 'KEY', value: 'short' }],
  ['a value of two lines', { name: 'KEY', value: `${VALUE}\r\nX-Other: 1` }],
  ['a long value', { name: 'KEY', value: 'x'.repeat(4097) }],
])('set: refuses %s without showing the value', async (_what, secret) => {
  const { host, control } = await open();
  await using _host = host;
  const failed = await control.secrets.set(secret).catch((error: unknown) => error);
  expect(failed).toMatchObject({ code: 'spec_invalid' });
  expect(String(failed)).not.toContain(secret.value);
  expect(await control.secrets.list()).toEqual([]);
});

it('tenants: each has its own secrets, up to a maximum, until it is removed', async () => {
  const { host, control, acme, other } = await open();
  await using _host = host;
  await acme.secrets.set(KEY);
  const made = await acme.create(USE);
  expect(made.secrets).toMatchObject([{ name: 'KEY', stored: 'KEY' }]);
  expect((await control.get(made.id)).secrets).toMatchObject([{ stored: 'acme/KEY' }]);
  expect(await acme.secrets.list()).toMatchObject([{ name: 'KEY', sandboxes: [made.id] }]);
  expect(await other.secrets.list()).toEqual([]);
  await expect(other.create(USE)).rejects.toMatchObject({ code: 'secrets_missing' });
  const stolen = { secrets: [{ name: 'KEY', hosts: ['evil.example'], stored: 'acme/KEY' }] };
  await expect(other.create(stolen)).rejects.toMatchObject({ code: 'not_found' });
  await expect(other.secrets.remove('KEY')).rejects.toMatchObject({ code: 'not_found' });
  await expect(other.secrets.set({ ...KEY, name: 'acme/KEY', replace: true })).rejects.toThrow('no secret');
  for (let n = 1; n < SECRETS_MAX; n += 1) await acme.secrets.set({ ...KEY, name: `KEY_${n}` });
  await expect(acme.secrets.set({ ...KEY, name: 'MORE' })).rejects.toMatchObject({ code: 'forbidden' });
  await acme.secrets.set({ ...KEY, value: NEXT, replace: true });
  await other.secrets.set(KEY);
  await removeOwned(control, 'acme');
  expect(await control.secrets.list()).toMatchObject([{ name: 'other/KEY' }]);
});

it('REST: a client stores, lists, replaces and removes secrets; no response and no log has a value', async () => {
  const { host, control } = await open();
  await using _host = host;
  const lines: unknown[] = [];
  const note = (...line: unknown[]): void => void lines.push(line);
  const log = { ...silentLog, info: note, warn: note, error: note, debug: note };
  const server = await createApiServer({ control, log, apiKey: 'k' });
  try {
    const port = await server.listen({ port: 0 });
    await using client = await connectDaemon({ url: `http://127.0.0.1:${port}`, apiKey: 'k' });
    const answers: unknown[] = [await client.secrets.set(KEY)];
    answers.push(await client.create(USE), await client.secrets.set({ ...KEY, value: NEXT, replace: true }));
    answers.push(await client.secrets.list());
    answers.push(await client.secrets.set({ ...KEY, value: NEXT }).catch(String));
    answers.push(await client.secrets.set({ name: '1', value: VALUE }).catch(String));
    answers.push(await client.secrets.remove('KEY').catch(String));
    expect(answers.slice(-3)).toEqual([
      expect.stringContaining('already'),
      expect.stringContaining('1 to 64 letters'),
      expect.stringContaining('is used by'),
    ]);
    vi.stubEnv('NEUROVISOR_API_KEY', 'k');
    const daemon = `http://127.0.0.1:${port}` as const;
    expect(await secrets.create('OTHER', VALUE, { daemon })).toMatchObject({ name: 'OTHER' });
    expect(await secrets.list({ daemon })).toHaveLength(2);
    await secrets.remove('OTHER', { daemon });
    await client.secrets.remove('KEY', true);
    expect(await client.secrets.list()).toEqual([]);
    expect(JSON.stringify([answers, lines])).not.toMatch(/sk-(?:live|next)/);
  } finally {
    vi.unstubAllEnvs();
    await server.close();
  }
});
