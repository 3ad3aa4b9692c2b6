/** Tenants at the port: their keys, with the unmodified client of E2B and with our own REST. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { Sandbox, Template } from 'e2b';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { connectDaemon } from '../../src/api/client/client.ts';
import { API_LIMITS } from '../../src/api/rest/limits.ts';
import { KeyStore } from '../../src/api/tenants/keys.ts';
import { withOwner } from '../../src/api/tenants/owner.ts';
import { TenantQuotas } from '../../src/api/tenants/quota.ts';
import { TenantStore } from '../../src/api/tenants/settings.ts';
import { Tenancy } from '../../src/api/tenants/tenancy.ts';
import { systemClock } from '../../src/base/clock.ts';
import { privateRules } from '../../src/host/runtime/network.ts';
import type { CreateRequest } from '../../src/sandbox/contract/control.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';

let home: string;
let world: E2bWorld;
let keys: KeyStore;
let settings: TenantStore;
let first: string;
/** Where the host logs in for Python packages. */
let packageLogin: string | null = null;
let second: string;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-tenants-'));
  keys = new KeyStore(home, systemClock);
  settings = new TenantStore(home);
  const ceilingOf = (tenant: string) => settings.get(tenant);
  const ceilings = { ceilingOf, privateRules, packageLogin: async () => packageLogin };
  world = await openE2bWorld({ home }, (control, apiKey) => new Tenancy({ control, keys, apiKey, ...ceilings }));
  first = keys.create('first', null).key;
  second = keys.create('second', null).key;
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  await rm(home, { recursive: true, force: true });
});

const as = (apiKey: string) => ({ ...world.client, apiKey });
const rest = async (apiKey: string, path: string, init: RequestInit = {}): Promise<Response> =>
  await fetch(`${world.url}${path}`, { ...init, headers: { 'x-api-key': apiKey, ...init.headers } });
const idsOf = async (apiKey: string): Promise<string[]> => {
  const { sandboxes } = (await (await rest(apiKey, '/v1/sandboxes')).json()) as { sandboxes: { id: string }[] };
  return sandboxes.map(({ id }) => id).sort();
};

describe('the client of E2B', () => {
  it('has its own templates and uploads, whatever their names and hashes', async () => {
    const template = () => Template({ fileContextPath: home }).fromTemplate('base').copy('up', '/');
    await writeFile(join(home, 'up'), 'x');
    const built = await Template.build(template(), 'mine', as(first));
    expect(await Template.exists('mine', as(second))).toBe(false);
    await expect(Template.getTags(built.templateId, as(second))).rejects.toThrow('no template');
    const logs: string[] = [];
    await Template.build(template(), 'mine', { ...as(second), onBuildLogs: ({ message }) => void logs.push(message) });
    expect(logs).toContain("Uploaded 'up'");
    const [one, two] = world.builds.wanted.slice(-2);
    expect(one?.name).not.toBe(two?.name);
  });

  it('finds only its own sandboxes, which our REST shows, too', async () => {
    const mine = await Sandbox.create('agent', as(first));
    const other = await Sandbox.create('agent', as(second));
    expect((await mine.commands.run('echo hi')).stdout).toBe('hi\n');
    expect(await idsOf(first)).toEqual([mine.sandboxId]);
    expect(await idsOf(second)).toEqual([other.sandboxId]);
    expect(await idsOf(world.apiKey)).toEqual([mine.sandboxId, other.sandboxId].sort());
    await expect(Sandbox.connect(other.sandboxId, as(first))).rejects.toThrow('not found');
    expect(await Sandbox.kill(other.sandboxId, as(first))).toBe(false);
    expect(await other.isRunning()).toBe(true);
    expect(await mine.kill()).toBe(true);
    expect(await Sandbox.kill(other.sandboxId, as(world.apiKey))).toBe(true);
  });

  it('names snapshots freely; the operator tells them apart by the tenant', async () => {
    const [mine, other] = [await Sandbox.create('agent', as(first)), await Sandbox.create('agent', as(second))];
    for (const sandbox of [mine, other]) {
      expect((await sandbox.createSnapshot({ name: 'base' })).snapshotId).toBe('base:default');
    }
    await expect(mine.createSnapshot({ name: 'base' })).rejects.toThrow('already');
    const again = await Sandbox.create('base:default', as(second));
    const operators = await Sandbox.create('second/base:default', as(world.apiKey));
    const remove = async (key: string, name: string): Promise<number> =>
      (await rest(key, `/v1/snapshots/${encodeURIComponent(name)}`, { method: 'DELETE' })).status;
    expect(await remove(second, 'first/base')).toBe(404);
    expect(await remove(first, 'base')).toBe(204);
    expect(await remove(world.apiKey, 'second/base')).toBe(204);
    for (const { sandboxId } of [mine, other, again, operators]) {
      await Sandbox.kill(sandboxId, as(world.apiKey));
    }
  });

  it('is refused from the moment its key is revoked', async () => {
    const { key, id } = keys.create('third', null);
    const sandbox = await Sandbox.create('agent', as(key));
    keys.revoke(id);
    await expect(Sandbox.create('agent', as(key))).rejects.toThrow('not valid');
    expect(await idsOf(world.apiKey)).toEqual([sandbox.sandboxId]);
    await Sandbox.kill(sandbox.sandboxId, as(world.apiKey));
  });
});

describe('REST', () => {
  it('wrong, unknown and revoked keys get the same answer', async () => {
    const { key, id } = keys.create('third', null);
    keys.revoke(id);
    const wrong = [key, `e2b_${'0'.repeat(48)}`, 'x', first.slice(0, -1)];
    for (const path of ['/v1/sandboxes', '/sandboxes']) {
      const answers = wrong.map(async (one) => {
        const answer = await rest(one, path);
        return `${answer.status} ${await answer.text()}`;
      });
      const texts = new Set(await Promise.all(answers));
      expect([...texts]).toEqual([expect.stringMatching(/^401 /)]);
    }
  });

  it('streams of all tenants share one number, of which the operator and each tenant keep a part', async () => {
    const { ownMax } = API_LIMITS.eventStreamShares;
    const leave = new AbortController();
    const open = async (key: string): Promise<number> =>
      (await rest(key, '/v1/events', { signal: leave.signal })).status;
    const tenants = Array.from({ length: 10 }, (_, n) => keys.create(`streams-${n}`, null).key);
    const opened: number[] = [];
    for (const key of tenants) {
      const statuses = await Promise.all(Array.from({ length: ownMax + 1 }, () => open(key)));
      opened.push(statuses.filter((status) => status === 200).length);
    }
    expect(opened[0]).toBe(ownMax);
    expect(Math.min(...opened)).toBeGreaterThanOrEqual(API_LIMITS.eventStreamShares.guaranteed);
    expect(Math.min(...opened)).toBeLessThan(ownMax);
    expect(await open(world.apiKey)).toBe(200);
    leave.abort();
  });

  it('the host’s metrics and pools are the operator’s', async () => {
    expect((await rest(first, '/metrics')).status).toBe(404);
    expect((await rest(world.apiKey, '/metrics')).status).toBe(200);
    expect(await (await rest(first, '/v1/loads')).json()).toMatchObject({ sandboxes: [] });
    const set = await rest(first, '/v1/pools', {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: '{"min":0,"max":1}',
    });
    for (const answer of [set, await rest(first, '/v1/pools')]) {
      expect([answer.status, await answer.json()]).toMatchObject([403, { error: { code: 'forbidden' } }]);
    }
  });

  it('one Idempotency-Key of two tenants is two keys', async () => {
    const create = async (key: string) =>
      (await (await rest(key, '/v1/sandboxes', { method: 'POST', headers: { 'idempotency-key': 'k' } })).json()) as {
        id: string;
      };
    const [mine, other] = [await create(first), await create(second)];
    expect(mine.id).not.toBe(other.id);
    expect((await create(first)).id).toBe(mine.id);
    for (const { id } of [mine, other]) await world.control.remove(id);
  });

  it('our client, and the tunnel to the agent, see only the tenant’s sandboxes', async () => {
    await using mine = await connectDaemon({ url: world.url, apiKey: first });
    await using other = await connectDaemon({ url: world.url, apiKey: second });
    const { id } = await mine.create({});
    const guest = await mine.guest(id);
    expect(await (await guest.files.list('/')).length).toBeGreaterThan(0);
    await expect(other.get(id)).rejects.toMatchObject({ code: 'not_found' });
    await expect(other.guest(id).then((strange) => strange.files.list('/'))).rejects.toMatchObject({
      code: 'not_found',
    });
    await expect(other.openOperation(id)).rejects.toMatchObject({ code: 'not_found' });
    await mine.remove(id);
  });

  it('leaves tunnels to the operator and to other tenants, however many one opens', async () => {
    // A guest that never answers.
    const operation = vi
      .spyOn(world.control, 'openOperation')
      .mockImplementation(
        async () => new Duplex({ read: () => undefined, write: (_bytes, _encoding, done) => done() }),
      );
    const open: Duplex[] = [];
    await using clients = new AsyncDisposableStack();
    const openAll = async (key: string, sandboxes: number, each: number): Promise<number> => {
      const client = clients.use(await connectDaemon({ url: world.url, apiKey: key }));
      const before = open.length;
      for (let made = 0; made < sandboxes; made += 1) {
        const { id } = await client.create({});
        const tunnels = Array.from({ length: each }, () => client.openOperation(id));
        for (const tunnel of await Promise.allSettled(tunnels)) {
          if (tunnel.status === 'fulfilled') open.push(tunnel.value.on('error', () => undefined));
        }
      }
      return open.length - before;
    };
    const { tunnelsPerSandboxMax, tunnelsMax } = API_LIMITS;
    expect(await openAll(first, 4, tunnelsPerSandboxMax)).toBeLessThan(tunnelsMax / 2);
    expect(await openAll(second, 1, 10)).toBe(10);
    expect(await openAll(world.apiKey, 1, 100)).toBe(100);
    for (const tunnel of open) tunnel.destroy();
    operation.mockRestore();
    for (const { id } of await world.control.list()) await world.control.remove(id);
  });

  it('ends the open streams and tunnels of a key that is revoked', async () => {
    const { key, id: keyId } = keys.create('third', null);
    const { id } = (await (await rest(key, '/v1/sandboxes', { method: 'POST' })).json()) as { id: string };
    const stream = await rest(key, `/v1/sandboxes/${id}/events`);
    const session = await rest(key, '/v1/session');
    await using client = await connectDaemon({ url: world.url, apiKey: key });
    const tunnel = await client.openOperation(id);
    tunnel.on('error', () => undefined);
    tunnel.resume();
    const ended = new Promise<void>((resolve) => {
      for (const event of ['end', 'close']) tunnel.once(event, () => resolve());
    });
    const others = await rest(first, '/v1/session');
    keys.revoke(keyId);
    await expect(stream.text()).rejects.toThrow();
    await expect(session.text()).rejects.toThrow();
    await ended;
    tunnel.destroy();
    await world.control.remove(id);
    const reader = others.body?.getReader();
    expect((await reader?.read())?.done).toBe(false);
    await reader?.cancel();
  });

  it('logs no error', () => expect(world.errors).toEqual([]));
});

describe('what a tenant may ask for', () => {
  const ask = async (key: string, method: string, path: string, body: object) => {
    const headers = { 'content-type': 'application/json' };
    const answer = await rest(key, path, { method, headers, body: JSON.stringify(body) });
    const text = await answer.text();
    return { status: answer.status, text, json: text === '' ? {} : (JSON.parse(text) as Record<string, unknown>) };
  };
  const restNetwork = { network: { mode: 'allowlist', allow: ['10.0.0.0/8', '192.168.0.0/16'] } };
  const e2bLists = { allowOut: ['10.0.0.0/8'], denyOut: ['0.0.0.0/0'] };
  const e2bBody = { templateID: 'agent', network: e2bLists };

  it('REST: no private network or field of a model that the operator has not allowed', async () => {
    const allowFields = ['messages.content', 'file_ids', 'store', 'provider', 'priority'];
    const bodies = [restNetwork, { models: { allowFields } }];
    for (const body of bodies) {
      const refused = await ask(first, 'POST', '/v1/sandboxes', body);
      expect(refused).toMatchObject({ status: 403, json: { error: { code: 'forbidden' } } });
      expect(refused.text).toContain('neurovisor tenant set first --');
    }
    expect(await idsOf(world.apiKey)).toEqual([]);
    const { id } = (await ask(first, 'POST', '/v1/sandboxes', {})).json as { id: string };
    expect((await ask(first, 'PATCH', `/v1/sandboxes/${id}`, restNetwork)).status).toBe(403);
    expect((await world.control.get(id)).network).toBeNull();
    settings.set('first', { allowNet: ['10.0.0.0/8', '192.168.0.0/16'], allowFields });
    expect((await ask(first, 'PATCH', `/v1/sandboxes/${id}`, restNetwork)).status).toBe(200);
    for (const body of bodies) {
      expect((await ask(first, 'POST', '/v1/sandboxes', body)).status).toBe(201);
      expect((await ask(second, 'POST', '/v1/sandboxes', body)).status).toBe(403);
    }
    settings.set('first', { allowNet: [], allowFields: [] });
    expect((await ask(first, 'POST', `/v1/sandboxes/${id}/fork`, {})).status).toBe(403);
    for (const one of await idsOf(world.apiKey)) await world.control.remove(one);
  });

  it('E2B: no private network, at creation and later; the operator’s key may', async () => {
    const refused = await ask(first, 'POST', '/sandboxes', e2bBody);
    expect(refused).toMatchObject({ status: 403, json: { code: 403 } });
    expect(refused.text).toContain('network.allow: 10.0.0.0/8: not for this key');
    const made = await Sandbox.create('agent', as(first));
    expect((await ask(first, 'PUT', `/sandboxes/${made.sandboxId}/network`, e2bLists)).status).toBe(403);
    expect((await world.control.get(made.sandboxId)).network).toMatchObject({ mode: 'open', allow: [] });
    const internet = { allowOut: ['example.com', '8.8.8.8'], denyOut: ['0.0.0.0/0'] };
    expect((await ask(first, 'PUT', `/sandboxes/${made.sandboxId}/network`, internet)).status).toBe(204);
    expect((await ask(world.apiKey, 'POST', '/sandboxes', e2bBody)).status).toBe(201);
    settings.set('first', { allowNet: ['10.0.0.0/8'] });
    expect((await ask(first, 'PUT', `/sandboxes/${made.sandboxId}/network`, e2bLists)).status).toBe(204);
    expect((await ask(first, 'POST', '/sandboxes', e2bBody)).status).toBe(201);
    settings.set('first', { allowNet: [] });
    for (const one of await idsOf(world.apiKey)) await world.control.remove(one);
  });

  it('E2B: a template above the tenant’s sizes is refused before it is built', async () => {
    settings.set('first', { cpusMax: 1, memoryMaxMib: 1024 });
    const build = async (size: object) => await ask(first, 'POST', '/v3/templates', { name: 'sized', ...size });
    expect((await build({ cpuCount: 2 })).text).toContain('cpus: 2 is above 1, the maximum for this key');
    expect(await build({ cpuCount: 1, memoryMB: 2048 })).toMatchObject({ status: 403 });
    expect(await build({ cpuCount: 1, memoryMB: 1024 })).toMatchObject({ status: 202 });
    settings.set('first', { inherit: ['cpusMax', 'memoryMaxMib'] });
  });

  it('E2B: images and templates outside the tenant’s lists are refused, for sandboxes and builds', async () => {
    settings.set('first', { allowImages: ['docker.io/library/*'], allowTemplates: ['base'] });
    expect((await ask(first, 'POST', '/sandboxes', { templateID: 'agent' })).text).toContain(
      'template: agent: not for this key',
    );
    expect((await ask(first, 'POST', '/v1/sandboxes', { image: 'ghcr.io/x/y' })).status).toBe(403);
    const build = async (from: object) => {
      const { json } = await ask(first, 'POST', '/v3/templates', { name: 'listed' });
      const { templateID, buildID } = json as { templateID: string; buildID: string };
      return await ask(first, 'POST', `/v2/templates/${templateID}/builds/${buildID}`, from);
    };
    expect((await build({ fromImage: 'ghcr.io/x/y' })).text).toContain('image: ghcr.io/x/y: not for this key');
    expect((await build({ fromTemplate: 'code-interpreter' })).status).toBe(403);
    expect((await build({ fromImage: 'e2bdev/code-interpreter' })).status).toBe(403);
    expect((await build({ fromImage: 'python:3.13' })).status).toBe(202);
    const built = await Template.build(Template().fromTemplate('base'), 'own', as(first));
    expect((await build({ fromTemplate: built.name })).status).toBe(202);
    settings.set('first', { inherit: ['allowImages', 'allowTemplates'] });
  });

  it('the host logs in for a tenant only where the operator lets it', async () => {
    const quotas = new TenantQuotas(settings, systemClock);
    const annotations = withOwner({}, 'first');
    const hosts = ['ghcr.io', 'docker.io', 'registry.acme.example:5000'];
    const where = () => hosts.filter((host) => quotas.mayLogIn(annotations, host));
    const create = async () => (await ask(first, 'POST', '/v1/sandboxes', { requirements: ['private'] })).text;
    expect(hosts.filter((host) => quotas.mayLogIn({}, host))).toEqual(hosts);
    expect(where()).toEqual([]);
    settings.set('first', { allowLogins: ['*.io'] });
    expect(where()).toEqual(['ghcr.io', 'docker.io']);
    settings.set('first', { inherit: ['allowLogins'] });
    packageLogin = 'pypi.acme.example';
    expect(await create()).toContain('this host logs in at its package index, and not for this key');
    expect(await create()).toContain('neurovisor tenant set first --allow-login pypi.acme.example');
    settings.set('first', { allowLogins: ['pypi.acme.example'] });
    expect(await create()).not.toContain('logs in');
    settings.set('first', { inherit: ['allowLogins'] });
    expect((await ask(world.apiKey, 'POST', '/v1/sandboxes', { requirements: ['x'] })).text).not.toContain('logs in');
    packageLogin = null;
    expect(await create()).not.toContain('logs in');
    const build = async () => {
      await Template.build(Template().fromTemplate('base'), 'logins', as(first));
      return hosts.filter((host) => world.builds.wanted.at(-1)?.mayLogIn(host));
    };
    expect(await build()).toEqual([]);
    settings.set('first', { allowLogins: ['ghcr.io'] });
    expect(await build()).toEqual(['ghcr.io']);
    settings.set('first', { inherit: ['allowLogins'] });
    for (const one of await idsOf(world.apiKey)) await world.control.remove(one);
  });

  it('E2B: a timeout above the tenant’s maximum is refused; clients’ defaults are not above it', async () => {
    settings.set('first', { timeoutMaxMs: 60_000 });
    const made = await Sandbox.create('agent', { ...as(first), timeoutMs: 60_000 });
    const { sandboxId } = made;
    const refused = 'timeoutMs: 61000 is above 60000';
    await expect(Sandbox.create('agent', { ...as(first), timeoutMs: 61_000 })).rejects.toThrow(refused);
    await expect(made.setTimeout(61_000)).rejects.toThrow(refused);
    await expect(Sandbox.connect(sandboxId, { ...as(first), timeoutMs: 90_000 })).rejects.toThrow('timeoutMs: 90000');
    for (const path of ['', `/${sandboxId}/connect`]) {
      const answer = await ask(first, 'POST', `/v2/sandboxes${path}`, path === '' ? { templateID: 'agent' } : {});
      expect([path, answer.status]).toEqual([path, path === '' ? 201 : 200]);
      const { endsAtMs } = await world.control.get((answer.json as { sandboxID: string }).sandboxID);
      expect((endsAtMs ?? Number.POSITIVE_INFINITY) - Date.now()).toBeLessThanOrEqual(60_000);
    }
    settings.set('first', { inherit: ['timeoutMaxMs'] });
    for (const one of await idsOf(world.apiKey)) await world.control.remove(one);
  });

  it('a sandbox from a snapshot has only what its own request asks for', async () => {
    const operators = await world.control.create({ ...restNetwork, annotations: { tenant: 'first' } } as CreateRequest);
    const snapshot = await world.control.snapshot(operators.id, {});
    expect((await ask(first, 'POST', '/v1/sandboxes', { snapshot: snapshot.id, ...restNetwork })).status).toBe(403);
    const made = await ask(first, 'POST', '/v1/sandboxes', { snapshot: snapshot.id });
    expect(made).toMatchObject({ status: 201, json: { origin: 'snapshot', network: null } });
    for (const one of await idsOf(world.apiKey)) await world.control.remove(one);
  });
});
