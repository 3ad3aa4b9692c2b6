/** E2B's control plane: the unmodified JavaScript client, and raw requests for details that it does not show. */
import { Sandbox, SandboxNotFoundError, Secret, SecretError, Volume, VolumeError, VolumeNotFoundError } from 'e2b';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { CreateRequest } from '../../src/sandbox/contract/control.ts';
import { BusyError, SandboxError } from '../../src/sandbox/contract/errors.ts';
import { type Asking, asking } from '../support/e2b-ask.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';

let world: E2bWorld;
let beforeCreate: (request: CreateRequest) => void = () => undefined;

beforeAll(async () => {
  world = await openE2bWorld({ beforeCreate: (request) => beforeCreate(request) });
});
afterEach(() => {
  vi.restoreAllMocks();
  beforeCreate = () => undefined;
});
afterAll(() => world[Symbol.asyncDispose]());

// biome-ignore lint/suspicious/noTemplateCurlyInString: E2B's variable
const MASK = 'localhost:${PORT}';

const ask: Asking = (...request) => asking(world)(...request);

const made = async (body: object = {}, path = '/v2/sandboxes'): Promise<string> => {
  const { status, json } = await ask('POST', path, { templateID: 'agent', ...body });
  expect(status, JSON.stringify(json)).toBe(201);
  return json.sandboxID;
};

describe('lists', () => {
  const owner = { 'k y': 'v&1' };
  const other = { 'k y': 'v&1', more: 'é%' };

  it('have pages, filters and an order', async () => {
    const first = await made({ metadata: owner });
    const second = await made({ metadata: other, templateID: 'named' });
    const third = await made({ metadata: owner });
    await Sandbox.pause(second, world.client);
    const ids = async (query: object, limit = 2, order?: 'asc' | 'desc'): Promise<string[]> => {
      const options = { ...world.client, query: { metadata: owner, ...query }, limit };
      const paginator = Sandbox.list(order === undefined ? options : { ...options, order });
      const found: string[] = [];
      while (paginator.hasNext) {
        const page = await paginator.nextItems();
        expect(page.length).toBeLessThanOrEqual(limit);
        found.push(...page.map(({ sandboxId }) => sandboxId));
      }
      return found;
    };
    const all = await ids({});
    expect(all.toSorted()).toEqual([first, second, third].toSorted());
    expect(await ids({}, 1, 'asc')).toEqual(all.toReversed());
    expect(await ids({ metadata: other })).toEqual([second]);
    expect(await ids({ state: ['paused'] })).toEqual([second]);
    expect((await ids({ state: ['running'] })).toSorted()).toEqual([first, third].toSorted());
    expect(await ids({ template: 'named' })).toEqual([second]);
    expect(await ids({ startedAfter: new Date(Date.now() + 60_000) })).toEqual([]);
    const old = await ask('GET', '/sandboxes?metadata=k%252520y%3Dv%2525261');
    expect(old.json.map(({ sandboxID }: { sandboxID: string }) => sandboxID).toSorted()).toEqual(
      [first, third].toSorted(),
    );
  });

  it.each([
    ['limit=0'],
    ['limit=101'],
    ['limit=x'],
    ['nextToken=nonsense'],
    ['nextToken=%00'],
    ['state=gone'],
    ['startedAfter=yesterday'],
    ['order=random'],
    ['metadata=%25E0%25A4%25A'],
  ])('refuse %s', async (query) => {
    const { status, json } = await ask('GET', `/v2/sandboxes?${query}`);
    expect([status, json.code]).toEqual([400, 400]);
  });
});

describe('info', () => {
  it('has all fields that a client may request', async () => {
    const sandbox = await Sandbox.create('agent', {
      ...world.client,
      timeoutMs: 60_000,
      lifecycle: { onTimeout: 'pause', autoResume: true },
      network: { allowOut: ['1.1.1.1'], denyOut: ['0.0.0.0/0'], allowPublicTraffic: false, maskRequestHost: MASK },
    });
    expect(await sandbox.getInfo()).toMatchObject({
      templateId: 'agent',
      state: 'running',
      lifecycle: { onTimeout: 'pause', autoResume: true },
      network: { allowOut: ['1.1.1.1'], denyOut: ['0.0.0.0/0'], allowPublicTraffic: false, maskRequestHost: MASK },
    });
    expect(sandbox.trafficAccessToken).toMatch(/^[0-9a-f]{64}$/);
    expect((await world.control.get(sandbox.sandboxId)).network).toMatchObject({
      mode: 'allowlist',
      allow: ['1.1.1.1'],
    });
  });

  it('a sandbox has the internet by default, and not if the request says false', async () => {
    const network = async (body: object) => {
      const id = await made(body);
      const { json } = await ask('GET', `/sandboxes/${id}`);
      return [(await world.control.get(id)).network?.mode ?? null, json.allowInternetAccess];
    };
    expect(await network({})).toEqual(['open', null]);
    expect(await network({ allow_internet_access: true })).toEqual(['open', true]);
    expect(await network({ allow_internet_access: false })).toEqual([null, false]);
  });
});

describe('a host without networks', () => {
  const unavailable = (request: CreateRequest): void => {
    if (request.network == null) return;
    throw new SandboxError('network_unavailable', 'could not set up the network', { remedy: 'run it as root' });
  };

  it('creates sandboxes without a card unless a client has rules', async () => {
    beforeCreate = unavailable;
    await using fresh = await openE2bWorld({ beforeCreate: unavailable });
    const sandbox = await Sandbox.create('agent', fresh.client);
    expect((await sandbox.getInfo()).allowInternetAccess).toBe(false);
    expect((await fresh.control.get(sandbox.sandboxId)).network).toBe(null);
    for (const wish of [
      { network: { denyOut: ['10.0.0.0/8'] } },
      { network: { allowOut: ['1.1.1.1'], denyOut: ['0.0.0.0/0'] } },
    ]) {
      await expect(Sandbox.create('agent', { ...fresh.client, ...wish })).rejects.toThrow(
        /400: could not set up the network.*run it as root/s,
      );
    }
    await Sandbox.create('agent', { ...fresh.client, allowInternetAccess: false });
    // Clients send this whether their program does or not.
    const always = { templateID: 'agent', allow_internet_access: true };
    for (const path of ['/sandboxes', '/v2/sandboxes']) {
      const { status, json } = await asking(fresh)('POST', path, always);
      expect(status).toBe(201);
      const again = await asking(fresh)('PUT', `/sandboxes/${json.sandboxID}/network`, { allow_internet_access: true });
      expect(again.status).toBe(204);
      const info = await asking(fresh)('GET', `/sandboxes/${json.sandboxID}`);
      expect(info.json.allowInternetAccess).toBe(false);
    }
  });
});

describe('timeouts', () => {
  const endOf = async (id: string): Promise<number> => ((await world.control.get(id)).endsAtMs ?? 0) - Date.now();

  it('default to 300 s, before version 2 to 15 s', async () => {
    expect(await endOf(await made())).toBeGreaterThan(200_000);
    expect(await endOf(await made({}, '/sandboxes'))).toBeLessThanOrEqual(15_000);
  });

  it('0 is now: the sandbox ends, or pauses', async () => {
    const killed = await Sandbox.create('agent', world.client);
    const ended = new Promise<void>((resolve) => {
      const stop = world.control.onChange(({ id, status }) => {
        if (id !== killed.sandboxId || status !== 'ended') return;
        stop();
        resolve();
      });
    });
    await killed.setTimeout(0);
    await ended;
    await expect(killed.getInfo()).rejects.toThrow(SandboxNotFoundError);
    const paused = await Sandbox.create('agent', { ...world.client, lifecycle: { onTimeout: 'pause' } });
    await paused.setTimeout(0);
    expect((await paused.getInfo()).state).toBe('paused');
    // The timeout of zero does not apply to the resumed sandbox.
    await Sandbox.connect(paused.sandboxId, world.client);
    expect(await endOf(paused.sandboxId)).toBeGreaterThan(200_000);
  });

  it('are never shortened by connect or refreshes', async () => {
    const id = await made({ timeout: 600 });
    await Sandbox.connect(id, { ...world.client, timeoutMs: 10_000 });
    expect((await ask('POST', `/sandboxes/${id}/refreshes`, { duration: 5 })).status).toBe(204);
    expect(await endOf(id)).toBeGreaterThan(500_000);
    expect((await ask('POST', `/sandboxes/${id}/refreshes`, { duration: 3600 })).status).toBe(204);
    expect(await endOf(id)).toBeGreaterThan(3_000_000);
    expect((await ask('POST', `/sandboxes/${id}/timeout`, { timeout: 30 })).status).toBe(204);
    expect(await endOf(id)).toBeLessThanOrEqual(30_000);
  });

  it.each([[-1], [1.5], ['x'], [null], [604_801]])('%s is refused', async (timeout) => {
    const id = await made();
    const { status } = await ask('POST', `/sandboxes/${id}/timeout`, { timeout });
    expect(status).toBe(400);
  });
});

describe('pause and resume', () => {
  it.each([['/v2/sandboxes'], ['/sandboxes']])(
    '%s: 200 for a running sandbox, 201 for a paused one, with the same token',
    async (path) => {
      const id = await made();
      const connect = () => ask('POST', `${path}/${id}/connect`, { timeout: 60 });
      const running = await connect();
      expect(running.status).toBe(200);
      expect((await ask('POST', `/sandboxes/${id}/resume`, {})).status).toBe(409);
      expect((await ask('POST', `/sandboxes/${id}/pause`)).status).toBe(204);
      expect((await ask('POST', `/sandboxes/${id}/pause`, {})).status).toBe(409);
      expect((await ask('POST', `/sandboxes/${id}/timeout`, { timeout: 9 })).status).toBe(409);
      const resumed = await connect();
      expect(resumed.status).toBe(201);
      expect(resumed.json).toEqual(running.json);
      expect(Object.keys(resumed.json)).toEqual(
        expect.arrayContaining(['templateID', 'sandboxID', 'clientID', 'envdVersion', 'domain']),
      );
      await Sandbox.pause(id, world.client);
      const old = await ask('POST', `/sandboxes/${id}/resume`, { autoPause: true });
      expect([old.status, (await world.control.get(id)).onTimeout]).toEqual([201, 'pause']);
    },
  );

  it('without memory: files stay, programs end, and only a connection boots the sandbox', async () => {
    const sandbox = await Sandbox.create('agent', { ...world.client, lifecycle: RESUMES });
    const { sandboxId: id } = sandbox;
    const stateOf = async () => (await world.control.get(id)).pausedTo;
    const before = await ask('POST', `/v2/sandboxes/${id}/connect`, {});
    const { pid } = await sandbox.commands.run('sleep 600', { background: true });
    expect(await sandbox.pause({ keepMemory: false })).toBe(true);
    expect([await stateOf(), await sandbox.isRunning()]).toEqual(['disk-only', false]);
    expect(await sandbox.pause({ keepMemory: false })).toBe(false);
    expect((await sandbox.getInfo()).state).toBe('paused');
    await expect(sandbox.commands.list()).rejects.toThrow();
    expect(await stateOf()).toBe('disk-only');
    const after = await ask('POST', `/v2/sandboxes/${id}/connect`, {});
    expect([after.status, after.json]).toEqual([201, before.json]);
    expect((await sandbox.commands.list()).map((one) => one.pid)).not.toContain(pid);
  });
  const RESUMES = { onTimeout: 'pause', autoResume: true } as const;

  it('a reconnect that reboots ends the programs of a pause with memory; none of a running sandbox', async () => {
    const sandbox = await Sandbox.create('agent', world.client);
    const { sandboxId: id } = sandbox;
    const reboot = { ...world.client, onResume: 'reboot' } as const;
    const program = await sandbox.commands.run('sleep 600', { background: true });
    const pids = async () => (await sandbox.commands.list()).map(({ pid }) => pid);
    await Sandbox.connect(id, reboot);
    expect(await pids()).toContain(program.pid);
    await sandbox.pause();
    await Sandbox.connect(id, reboot);
    expect(await pids()).not.toContain(program.pid);
    await sandbox.pause();
    const old = await ask('POST', `/sandboxes/${id}/resume`, { memory: false });
    expect(old.status).toBe(201);
  });

  it('autoPauseMemory: the timeout pauses without memory, also after a resume', async () => {
    const lifecycle = { onTimeout: { action: 'pause', keepMemory: false } } as const;
    const sandbox = await Sandbox.create('agent', { ...world.client, lifecycle });
    const { sandboxId: id } = sandbox;
    expect((await sandbox.getInfo()).lifecycle).toEqual({ onTimeout: 'pause', autoResume: false });
    await sandbox.setTimeout(0);
    expect(await world.control.get(id)).toMatchObject({ pausedTo: 'disk-only' });
    const resume = await ask('POST', `/sandboxes/${id}/resume`, { autoPause: true });
    expect(resume.status).toBe(201);
    expect(await world.control.get(id)).toMatchObject({ onTimeout: 'pause-disk-only' });
  });

  it.each([
    [{ autoPauseMemory: false }, 'autoPause'],
    [{ autoPause: true, autoPauseMemory: false, autoResume: { enabled: true } }, 'autoResume'],
  ])('%j is refused', async (body, named) => {
    const answer = await ask('POST', '/v2/sandboxes', { templateID: 'agent', ...body });
    expect([answer.status, answer.json.message]).toEqual([400, expect.stringContaining(named)]);
  });

  it('requireHealthyGuest: a guest that does not answer is not paused', async () => {
    const id = await made();
    const pause = () => ask('POST', `/sandboxes/${id}/pause`, { requireHealthyGuest: true });
    vi.spyOn(world.control, 'guest').mockRejectedValueOnce(new Error('no answer'));
    expect(await pause()).toMatchObject({
      status: 409,
      json: { code: 409, error_code: 'sandbox_snapshot_guest_agent_unresponsive' },
    });
    expect((await pause()).status).toBe(204);
  });
});

describe('forks', () => {
  it('each has its result', async () => {
    const id = await made({ metadata: { of: 'parent' } });
    const sandbox = await Sandbox.connect(id, world.client);
    const copies = await sandbox.fork({ count: 2, timeoutMs: 60_000 });
    expect(copies).toHaveLength(2);
    for (const copy of copies) {
      if (!(copy instanceof Sandbox)) throw copy;
      expect((await copy.getInfo()).metadata).toEqual({ of: 'parent' });
    }
    vi.spyOn(world.control, 'fork').mockResolvedValueOnce([
      { ok: true, sandbox: await world.control.get(id) },
      { ok: false, code: 'disk_full', message: 'no space' },
    ]);
    const { status, json } = await ask('POST', `/sandboxes/${id}/fork`, { count: 2 });
    expect([status, json]).toEqual([
      201,
      [{ sandbox: expect.objectContaining({ sandboxID: id }) }, { error: { code: 507, message: 'no space' } }],
    ]);
    expect((await ask('POST', `/sandboxes/${id}/fork`, { count: 65 })).status).toBe(400);
    expect((await ask('POST', `/sandboxes/${id}/fork`)).json).toHaveLength(1);
  });
});

describe('snapshots', () => {
  it('are templates, have names, are listed and deleted', async () => {
    const sandbox = await Sandbox.create('agent', world.client);
    const plain = await sandbox.createSnapshot();
    const named = await sandbox.createSnapshot({ name: 'my-state' });
    expect(plain.names).toEqual([]);
    expect(named).toEqual({ snapshotId: 'my-state:default', names: ['my-state:default'] });
    const listed = async (options: object): Promise<string[]> => {
      const paginator = Sandbox.listSnapshots({ ...world.client, limit: 1, ...options });
      const found: string[] = [];
      while (paginator.hasNext) {
        found.push(...(await paginator.nextItems()).map(({ snapshotId }) => snapshotId));
      }
      return found;
    };
    const ofSandbox = await listed({ sandboxId: sandbox.sandboxId });
    expect(ofSandbox.toSorted()).toEqual([plain.snapshotId, named.snapshotId].toSorted());
    expect(await listed({ name: 'my-state' })).toEqual([named.snapshotId]);
    expect(await listed({ sandboxId: 'nosuchsandbox' })).toEqual([]);
    const copy = await Sandbox.create(plain.snapshotId, world.client);
    expect((await world.control.get(copy.sandboxId)).origin).toBe('snapshot');
    for (const { snapshotId } of [plain, named]) {
      expect(await Sandbox.deleteSnapshot(snapshotId, world.client)).toBe(true);
      expect(await Sandbox.deleteSnapshot(snapshotId, world.client)).toBe(false);
    }
  });

  it('without memory', async () => {
    const id = await made();
    const { status, json } = await ask('POST', `/sandboxes/${id}/snapshots`, { memory: false });
    expect(status).toBe(201);
    const taken = (await world.control.snapshots()).find(({ sandbox }) => sandbox === id);
    expect(taken).toMatchObject({ diskOnly: true });
    const copy = await Sandbox.create(json.snapshotID, world.client);
    expect((await world.control.get(copy.sandboxId)).snapshot).toBe(taken?.id);
    await Sandbox.deleteSnapshot(json.snapshotID, world.client);
  });

  it('a name can be taken once, and must be valid', async () => {
    const id = await made();
    const snapshot = (name: string) => ask('POST', `/sandboxes/${id}/snapshots`, { name });
    expect((await snapshot('twice')).status).toBe(201);
    expect((await snapshot('twice')).status).toBe(409);
    for (const wrong of ['', 'Upper', 'a:v2', '../a', 'a'.repeat(64)]) {
      expect((await snapshot(wrong)).status).toBe(400);
    }
    await ask('DELETE', '/templates/twice%3Adefault');
  });

  it('the name of a snapshot that is no template can be created from', async () => {
    const id = await made();
    await ask('POST', `/sandboxes/${id}/snapshots`, { name: 'only-a-snapshot' });
    beforeCreate = ({ template }) => {
      if (template !== undefined) throw new SandboxError('not_found', `no template ${template}`);
    };
    const { json } = await ask('POST', '/v2/sandboxes', { templateID: 'only-a-snapshot:default' });
    expect((await world.control.get(json.sandboxID)).origin).toBe('snapshot');
    const none = await ask('POST', '/v2/sandboxes', { templateID: 'nothing' });
    expect([none.status, none.json.code]).toEqual([404, 404]);
  });
});

describe('networks', () => {
  it('an update replaces all lists and keeps the settings of ports', async () => {
    const sandbox = await Sandbox.create('agent', {
      ...world.client,
      network: { denyOut: ['8.8.8.0/24'], allowPublicTraffic: false },
    });
    const network = async () => (await world.control.get(sandbox.sandboxId)).network;
    expect(await network()).toMatchObject({ mode: 'open', deny: ['8.8.8.0/24'] });
    await sandbox.updateNetwork({ allowOut: ['1.1.1.1'], denyOut: ['1.1.1.0/30'] });
    expect(await network()).toMatchObject({ mode: 'open', deny: ['1.1.1.0/32', '1.1.1.2/31'] });
    const info = await sandbox.getInfo();
    expect(info.network).toMatchObject({ allowOut: ['1.1.1.1'], denyOut: ['1.1.1.0/30'], allowPublicTraffic: false });
    await sandbox.updateNetwork({ allowInternetAccess: false });
    expect(await network()).toBe(null);
    expect((await sandbox.getInfo()).network).toMatchObject({ allowPublicTraffic: false });
    expect((await sandbox.getInfo()).network?.denyOut).toBeUndefined();
    await sandbox.pause();
    await expect(sandbox.updateNetwork({})).rejects.toThrow('409');
  });

  it('rules become header fields that the gateway sets; no answer shows their values', async () => {
    const value = 'Bearer sk-0123456789abcdef';
    const rules = (name: string) => ({ 'a.com': [{ transform: { headers: { [name]: value } } }] });
    const list = { allowOut: ['a.com'], denyOut: ['0.0.0.0/0'] };
    const hidden = (name: string) => ({ 'a.com': [{ transform: { headers: { [name]: '[hidden]' } } }] });
    const sandbox = await Sandbox.create('agent', {
      ...world.client,
      network: { ...list, rules: { ...rules('Authorization'), '*.b.com': [{}] } },
    });
    const secrets = async () => (await world.control.get(sandbox.sandboxId)).secrets;
    expect(await secrets()).toMatchObject([{ sets: 'Authorization', hosts: ['a.com'], held: true }]);
    const info = await sandbox.getInfo();
    expect(info.network).toEqual({ ...list, rules: hidden('Authorization') });
    const kept = await world.control.get(sandbox.sandboxId);
    expect(JSON.stringify([info, kept])).not.toContain('sk-0');
    await sandbox.updateNetwork({ ...list, rules: rules('X-Api-Key') });
    expect((await sandbox.getInfo()).network?.rules).toEqual(hidden('X-Api-Key'));
    const refused = sandbox.updateNetwork({ ...list, rules: rules('Connection') });
    await expect(refused).rejects.toThrow(/400: .*Connection/);
    await expect(refused).rejects.not.toThrow('sk-0');
    expect(await secrets()).toMatchObject([{ sets: 'X-Api-Key' }]);
    await sandbox.updateNetwork(list);
    expect(await secrets()).toEqual([]);
    expect((await sandbox.getInfo()).network?.rules).toBeUndefined();
  });

  it.each([
    [{ allowOut: ['example.com'] }, 'denyOut'],
    [{ denyOut: ['example.com'] }, 'not an address'],
    [{ allowOut: ['169.254.169.254'], denyOut: ['0.0.0.0/0'] }, 'metadata'],
    [{ denyOut: ['1.2.3.4/99'] }, '1.2.3.4/99'],
    [{ rules: { 'a.com': [{ transform: { headers: { Host: 'b' } } }] } }, 'Host'],
    [{ rules: { 'a.com': [{ transform: { headers: { A: 'b\r\nC: d' } } }] } }, 'line breaks'],
    [{ rules: { 'a.com': [{ transform: { headers: { A: 'a ${e2b.identity' } } }] } }, 'tokens'],
    [{ rules: { 'a.com': [{ transform: { headers: { A: '[hidden]' } } }] } }, 'send the value'],
    [{ rules: { '1.2.3.4': [{ transform: { headers: { A: 'b' } } }] } }, '1.2.3.4'],
    [{ rules: { 'a.com': [{ transform: { body: 'x' } }] } }, 'body'],
    [{ rules: { 'a.com': [{ deny: true }] } }, 'deny'],
    [{ egressProxy: { address: 'proxy:1080' } }, 'egressProxy'],
    [{ dnsServers: ['1.1.1.1'] }, 'dnsServers'],
    [{ dnsServers: [] }, 'dnsServers'],
  ])('%j is refused', async (network, why) => {
    const { status, json } = await ask('POST', '/v2/sandboxes', { templateID: 'agent', network });
    expect([status, json.message]).toEqual([400, expect.stringContaining(why)]);
  });
});

describe('metrics', () => {
  it('come from the guest when requested', async () => {
    const sandbox = await Sandbox.create('agent', world.client);
    const [metric] = await sandbox.getMetrics();
    expect(metric?.memTotal).toBeGreaterThan(0);
    expect(metric?.cpuUsedPct).toBeLessThanOrEqual(100);
    expect(await sandbox.getMetrics({ end: new Date(1000) })).toEqual([]);
    const many = await ask('GET', `/sandboxes/metrics?sandbox_ids=${sandbox.sandboxId},none`);
    expect(Object.keys(many.json.sandboxes)).toEqual([sandbox.sandboxId]);
    await sandbox.pause();
    expect(await sandbox.getMetrics()).toHaveLength(1);
    await sandbox.kill();
    await expect(sandbox.getMetrics()).rejects.toThrow(SandboxNotFoundError);
    expect((await ask('GET', '/sandboxes/metrics')).status).toBe(400);
  });
});

describe('logs', () => {
  it('are the lines of the console', async () => {
    const id = await made();
    world.control.logsOf.set(id, { console: '[    1.500000] one\ntwo\n', vmm: 'of the host' });
    const { createdAtMs } = await world.control.get(id);
    const at = new Date(createdAtMs + 1500).toISOString();
    const entry = (message: string) => ({ timestamp: at, message, level: 'info', fields: {} });
    const [one, two] = [entry('[    1.500000] one'), entry('two')];
    const old = await ask('GET', `/sandboxes/${id}/logs`);
    expect(old.json.logs).toEqual([
      { timestamp: at, line: one.message },
      { timestamp: at, line: 'two' },
    ]);
    const logs = async (query: string) => (await ask('GET', `/v2/sandboxes/${id}/logs?${query}`)).json.logs;
    expect(await logs('')).toEqual([one, two]);
    expect(await logs('direction=backward&limit=1')).toEqual([two]);
    expect(await logs('search=two')).toEqual([two]);
    expect(await logs('level=warn')).toEqual([]);
    expect(await logs(`cursor=${createdAtMs + 9999}`)).toEqual([]);
    expect((await ask('GET', '/v2/sandboxes/none/logs')).status).toBe(404);
  });
});

describe('what is not supported', () => {
  it('secrets are refused with E2B’s errors', async () => {
    await expect(Secret.create('s', 'value', world.client)).rejects.toThrow(SecretError);
    await expect(Secret.list(world.client).nextItems()).rejects.toThrow(SecretError);
  });
});

describe('volumes', () => {
  it('are created, listed, found by id, mounted and destroyed', async () => {
    const { volumeId, token } = await Volume.create('v', world.client);
    await expect(Volume.create('v', world.client)).rejects.toThrow(VolumeError);
    expect(await Volume.list(world.client)).toEqual([{ volumeId, name: 'v' }]);
    expect(await Volume.getInfo(volumeId, world.client)).toMatchObject({ volumeId, name: 'v', token });
    await expect(Volume.connect('none', world.client)).rejects.toThrow(VolumeNotFoundError);
    let volumes: CreateRequest['volumes'];
    beforeCreate = (request) => {
      volumes = request.volumes;
    };
    await Sandbox.create('agent', { ...world.client, volumeMounts: { '/data': 'v' } });
    expect(volumes).toEqual([{ name: 'v', path: '/data' }]);
    expect(await Volume.destroy(volumeId, world.client)).toBe(true);
    expect(await Volume.destroy(volumeId, world.client)).toBe(false);
  });

  it('their files need the token of that volume, whatever the key', async () => {
    const one = await Volume.create('one', world.client);
    const two = await Volume.create('two', world.client);
    for (const url of [`/volumecontent/${one.volumeId}/dir?path=/`, `/volumecontent/${one.volumeId}/file?path=/a`]) {
      for (const headers of [{}, { authorization: `Bearer ${two.token}` }, { authorization: one.token }]) {
        expect((await ask('GET', url, undefined, headers as Record<string, string>)).status).toBe(401);
      }
    }
    const gone = { authorization: `Bearer ${two.token}` };
    await Volume.destroy(two.volumeId, world.client);
    expect((await ask('GET', `/volumecontent/${two.volumeId}/path?path=/`, undefined, gone)).status).toBe(404);
    await Volume.destroy(one.volumeId, world.client);
  });
});

describe('Idempotency-Key', () => {
  const create = (key: string, body: object = {}) =>
    ask('POST', '/v2/sandboxes', { templateID: 'agent', ...body }, { 'idempotency-key': key });

  it('the same key gives the same sandbox, and only for the same request', async () => {
    const [one, two] = await Promise.all([create('key-1'), create('key-1')]);
    expect([one?.status, two?.status]).toEqual([201, 201]);
    expect(one?.json.sandboxID).toBe(two?.json.sandboxID);
    expect((await create('key-1', { timeout: 7 })).status).toBe(409);
    expect((await create('key-2')).json.sandboxID).not.toBe(one?.json.sandboxID);
    for (const wrong of ['UPPER', 'a b', 'x'.repeat(256)]) {
      expect((await create(wrong)).status).toBe(400);
    }
  });

  it('failures are not stored', async () => {
    beforeCreate = () => {
      throw new BusyError('full', 1500);
    };
    const refused = await create('key-3');
    expect(refused.status).toBe(429);
    expect(refused.headers.get('retry-after')).toBe('2');
    expect(refused.headers.get('should-retry')).toBe('true');
    beforeCreate = () => undefined;
    expect((await create('key-3')).status).toBe(201);
  });
});

it('no request is logged as a bug', () => expect(world.errors).toEqual([]));
