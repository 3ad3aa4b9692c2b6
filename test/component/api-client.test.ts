/** The daemon's client, and clients in other languages, against the REST server. */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import {
  connectDaemon,
  type DaemonAddress,
  isDaemonRunning,
  type RemoteControlPlane,
} from '../../src/api/client/client.ts';
import { createApiServer } from '../../src/api/rest/server.ts';
import { QuotaError } from '../../src/api/tenants/errors.ts';
import { silentLog } from '../../src/base/log.ts';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { BusyError, SandboxError } from '../../src/sandbox/contract/errors.ts';
import { API_KEY, type ApiFixture, startApi } from '../support/api-fixture.ts';
import { makeAuthority } from '../support/certificate-authority.ts';
import { untilCancelled } from '../support/fake-control-plane.ts';
import { agentPython, outcome } from '../support/guest-agent.ts';

const authority = await makeAuthority();
const certificate = await authority.issue(['localhost', '127.0.0.1']);

describe.each(['unix socket', 'port', 'port with TLS'])('RemoteControlPlane over the %s', (way) => {
  let api: ApiFixture;
  let remote: RemoteControlPlane;
  let before: ((method: string) => void) | undefined;
  beforeEach(async () => {
    before = undefined;
    const tls = way === 'port with TLS' ? { certificate } : {};
    api = await startApi({ before: (method) => before?.(method), ...tls });
    remote = await connectDaemon(address());
  });
  afterEach(async () => {
    await remote[Symbol.asyncDispose]();
    await api[Symbol.asyncDispose]();
  });
  const address = (): DaemonAddress =>
    way === 'unix socket'
      ? { socketPath: api.socketPath }
      : way === 'port'
        ? { url: `http://localhost:${api.port}`, apiKey: API_KEY }
        : { url: `https://localhost:${api.port}`, apiKey: API_KEY, ca: authority.cert };

  it('reader: asks for no more than to read', async () => {
    const { id } = await remote.create({});
    const called: string[] = [];
    before = (method) => void called.push(method);
    const refusal = new SandboxError('snapshot_foreign', 'another version paused it');
    const guest = vi.spyOn(api.control, 'guest');
    const { files } = await remote.reader(id);
    expect(called).toContain('reader');
    expect((await files.stat('/')).type).toBe('directory');
    guest.mockRejectedValue(refusal);
    await expect(remote.guest(id)).rejects.toMatchObject({ code: 'snapshot_foreign' });
    const waiting = new AbortController();
    vi.spyOn(api.control, 'reader').mockReturnValue(new Promise(() => undefined));
    const reading = remote.reader(id, waiting.signal);
    waiting.abort(new Error('left'));
    await expect(reading).rejects.toThrow();
  });

  it('returns what the control plane behind it returns', async () => {
    const { control } = api;
    const { id } = await remote.create({ env: { A: 'b' }, metadata: { 'k=': 'v&' } });
    expect(await remote.get(id)).toEqual(await control.get(id));
    expect(await remote.list({ metadata: { other: 'v' } })).toEqual([]);
    expect(await remote.list({ status: ['running'] })).toEqual(await control.list());
    expect(await remote.update(id, { timeoutMs: 60_000 })).toEqual(await control.get(id));
    expect(await remote.pause(id, 'memory')).toMatchObject({ pausedTo: 'memory' });
    expect(await remote.resume(id)).toEqual(await control.get(id));
    expect(await remote.pause(id, 'disk-only')).toMatchObject({ pausedTo: 'disk-only' });
    expect(await remote.resume(id, { reboot: true })).toEqual(await control.get(id));
    const snapshot = await remote.snapshot(id, { name: 'n', diskOnly: true });
    expect(snapshot.diskOnly).toBe(true);
    expect(await remote.snapshots()).toEqual([snapshot]);
    expect(await remote.fork(id, { count: 2 })).toMatchObject([{ ok: true }, { ok: true }]);
    await remote.removeSnapshot('n');
    expect(await remote.snapshots()).toEqual([]);
    const pool = await remote.setPool({ min: 1, max: 2 }, { memoryMib: 256 });
    expect(await remote.pools()).toEqual([pool]);
    expect(await remote.host()).toEqual(await control.host());
    expect(await remote.channelStats(id)).toEqual(await control.channelStats(id));
    control.usageRecords.push({
      sandboxId: id,
      model: 'm',
      operation: 'chat',
      promptTokens: 1,
      completionTokens: 2,
      estimated: false,
      stream: true,
      status: 200,
      outcome: 'ok',
      timings: { queueMs: 0, ttftMs: null, totalMs: 1.5 },
    });
    expect(await remote.usage(id)).toEqual(control.usageRecords);
    expect(await remote.remove(id)).toEqual(await control.get(id));
  });

  it('guest: runs programs and keeps files', async () => {
    const { id } = await remote.create({ env: { A: 'b' } });
    const guest = await remote.guest(id);
    expect(guest.info).toEqual((await api.control.guest(id)).info);
    const code = 'import os, sys; print(os.environ["A"], sys.stdin.read())';
    const process = await guest.python({ script: { code } });
    process.stdin.end('typed');
    expect((await outcome(process)).stdout).toBe('b typed\n');
    const path = join(await api.control.dirOf(id), 'f');
    await guest.files.write(path, 'content');
    expect(String(await guest.files.readAll(path))).toBe('content');
    await expect(guest.files.readAll(`${path}x`)).rejects.toMatchObject({ code: 'not_found' });
    const terminal = await guest.exec({ argv: ['stty', 'size'], pty: { cols: 90, rows: 30 } });
    expect((await outcome(terminal)).stdout).toBe('30 90\r\n');
  });

  it('errors: arrive as the control plane threw them', async () => {
    const { id } = await remote.create({});
    await expect(remote.get('no-id')).rejects.toBeInstanceOf(SandboxError);
    await expect(remote.get('aaaaaaaaaaaaaaaaaaaa')).rejects.toMatchObject({ code: 'not_found' });
    await expect(remote.create({ cpus: 999 })).rejects.toMatchObject({ code: 'spec_invalid' });
    await expect(remote.fork(id, { count: 0 })).rejects.toMatchObject({ code: 'spec_invalid' });
    await expect(remote.removeSnapshot('../x')).rejects.toMatchObject({ code: 'spec_invalid' });
    await remote.remove(id);
    await expect(remote.pause(id, 'disk')).rejects.toMatchObject({ code: 'gone' });
    before = () => {
      throw new BusyError('create: the queue is full', 1500);
    };
    const busy = await remote.create({}).catch((error: unknown) => error);
    expect(busy).toBeInstanceOf(BusyError);
    expect(busy).toMatchObject({ retryAfterMs: 1500, remedy: 'try again in 2 s' });
    before = () => {
      throw new QuotaError('acme', 'sandboxes', '1 of 1 sandboxes are used');
    };
    await expect(remote.create({})).rejects.toMatchObject({
      code: 'busy',
      retryAfterMs: 5000,
      remedy: expect.stringContaining('remove a sandbox, or ask the operator'),
    });
    before = () => {
      throw new Error('inside');
    };
    await expect(remote.host()).rejects.toMatchObject({ code: 'refused', message: 'internal server error (internal)' });
  });

  it('onChange: reports each change until it is stopped', async () => {
    const changes: string[] = [];
    const stop = remote.onChange(({ id, status }) => changes.push(`${id} ${status}`));
    // The stream is open once a change arrives.
    await expect
      .poll(async () => {
        await api.control.create({});
        return changes.length;
      })
      .toBeGreaterThan(0);
    const { id } = await remote.create({});
    await remote.pause(id, 'memory');
    await remote.remove(id);
    await expect.poll(() => changes.slice(-3)).toEqual([`${id} running`, `${id} paused`, `${id} ended`]);
    stop();
    const reported = changes.length;
    await remote.create({});
    expect(changes).toHaveLength(reported);
  });

  it('a daemon that stops: daemon_lost, then daemon_unreachable', async () => {
    const asked = Promise.withResolvers<void>();
    api.control.create = () => {
      asked.resolve();
      return new Promise(() => undefined);
    };
    const created = remote.create({});
    await asked.promise;
    await api.server.close();
    await expect(created).rejects.toMatchObject({ code: 'daemon_lost' });
    await expect(remote.list()).rejects.toMatchObject({
      code: 'daemon_unreachable',
      remedy: expect.stringContaining('neurovisor serve'),
    });
  });
});

describe('RemoteControlPlane', () => {
  it('create: a signal cancels it on both sides', async () => {
    const asked = Promise.withResolvers<AbortSignal | undefined>();
    await using api = await startApi({
      beforeCreate: async (request, signal) => {
        asked.resolve(signal);
        await untilCancelled(request, signal);
      },
    });
    await using remote = await connectDaemon({ socketPath: api.socketPath });
    const cancel = new AbortController();
    const created = remote.create({}, cancel.signal);
    const there = await asked.promise;
    cancel.abort();
    await expect(created).rejects.toMatchObject({ code: 'cancelled' });
    await expect.poll(() => there?.aborted).toBe(true);
    expect(await api.control.list()).toEqual([]);
  });

  it('onChange: reports missed changes after a reconnect', async () => {
    await using api = await startApi();
    await using remote = await connectDaemon({ socketPath: api.socketPath });
    const last = new Map<string, SandboxInfo['status']>();
    remote.onChange(({ id, status }) => last.set(id, status));
    await expect
      .poll(async () => {
        await api.control.create({});
        return last.size;
      })
      .toBeGreaterThan(0);
    const [paused = '', removed = ''] = (await api.control.list()).map(({ id }) => id);
    await api.control.update(paused, {});
    await api.control.update(removed, {});
    await expect.poll(() => last.has(paused) && last.has(removed)).toBe(true);
    await api.server.close();
    await api.control.pause(paused, 'disk');
    await api.control.remove(removed);
    await using again = await createApiServer({ control: api.control, log: silentLog });
    await again.listen({ socketPath: api.socketPath });
    await expect.poll(() => last.get(paused)).toBe('paused');
    await expect.poll(() => last.get(removed)).toBe('ended');
  });

  it('requests that may be repeated, and new tunnels, wait for the next daemon', async () => {
    await using api = await startApi();
    const losses: number[] = [];
    const onLoss = (): void => void losses.push(1);
    await using remote = await connectDaemon({ socketPath: api.socketPath, waitMs: 20_000, onLoss });
    const { id } = await remote.create({});
    for (const restart of [1, 2]) {
      await api.server.close();
      const waiting = Promise.all([remote.get(id), remote.update(id, {}), remote.openOperation(id)]);
      await expect.poll(() => losses).toHaveLength(restart);
      await using again = await createApiServer({ control: api.control, log: silentLog });
      await again.listen({ socketPath: api.socketPath });
      const [info, , tunnel] = await waiting;
      expect(info).toMatchObject({ id, status: 'running' });
      tunnel.destroy();
    }
    expect(losses).toHaveLength(2);
  });

  it.each(['before', 'after'])('remove: a daemon that is lost %s the end; the next one ends it once', async (when) => {
    await using api = await startApi();
    await using remote = await connectDaemon({ socketPath: api.socketPath, waitMs: 20_000 });
    const { id } = await remote.create({});
    const { control } = api;
    const asked = Promise.withResolvers<void>();
    const end = control.remove.bind(control);
    vi.spyOn(control, 'remove').mockImplementationOnce(async () => {
      if (when === 'after') await end(id);
      asked.resolve();
      return await new Promise(() => undefined);
    });
    const removed = remote.remove(id);
    await asked.promise;
    await api.server.close();
    await using again = await createApiServer({ control, log: silentLog });
    await again.listen({ socketPath: api.socketPath });
    expect(await removed).toMatchObject({ id, status: 'ended' });
    expect(await control.list()).toEqual([]);
  });

  it('the end of the client, and an abort, end the wait for the next daemon', async () => {
    await using api = await startApi();
    const lost = Promise.withResolvers<void>();
    const cancel = new AbortController();
    const address = { socketPath: api.socketPath, waitMs: 20_000, onLoss: lost.resolve, cancelled: cancel.signal };
    const remote = await connectDaemon(address);
    const other = await connectDaemon({ ...address, onLoss: undefined, cancelled: undefined });
    await api.server.close();
    const waiting = [remote.list(), other.list()].map((list) =>
      expect(list).rejects.toMatchObject({ code: 'cancelled' }),
    );
    await lost.promise;
    cancel.abort();
    await other[Symbol.asyncDispose]();
    await Promise.all(waiting);
    await remote[Symbol.asyncDispose]();
  });

  it('connectDaemon: names the fault and the remedy', async () => {
    await using api = await startApi();
    const url = `http://127.0.0.1:${api.port}`;
    const connecting = (address: DaemonAddress) => expect(connectDaemon(address)).rejects;
    await connecting({ socketPath: '/nowhere/x' }).toMatchObject({ code: 'daemon_unreachable' });
    await connecting({ url }).toMatchObject({ code: 'unauthorized' });
    await connecting({ url, apiKey: 'wrong' }).toMatchObject({ code: 'unauthorized' });
    for (const bad of ['', 'x', 'http://user:password@127.0.0.1:1', `${url}/v1`, 'file:///etc/passwd']) {
      await connecting({ url: bad, apiKey: API_KEY }).toMatchObject({ code: 'address_invalid' });
    }
    expect(await isDaemonRunning(api.socketPath)).toBe(true);
    expect(await isDaemonRunning('/nowhere/x')).toBe(false);
  });

  it('connectDaemon with TLS: trusts only the given authority, for the names of the certificate, while it is valid', async () => {
    await using api = await startApi({ certificate });
    const connecting = (host: string, ca: string | undefined) =>
      connectDaemon({ url: `https://${host}:${api.port}`, apiKey: API_KEY, ca });
    for (const host of ['localhost', '127.0.0.1'])
      await (await connecting(host, authority.cert))[Symbol.asyncDispose]();
    const other = await makeAuthority();
    for (const ca of [other.cert, undefined]) {
      await expect(connecting('localhost', ca)).rejects.toMatchObject({
        code: 'certificate_invalid',
        message: expect.stringContaining('is not of an authority that this machine trusts'),
        remedy: expect.stringContaining('NEUROVISOR_CA'),
      });
    }
    api.server.setCertificate(await authority.issue(['box.example.org']));
    await expect(connecting('localhost', authority.cert)).rejects.toMatchObject({
      code: 'certificate_invalid',
      message: expect.stringContaining('is for other names: DNS:box.example.org'),
      remedy: expect.stringContaining('NEUROVISOR_URL'),
    });
    const yesterday = { notBefore: new Date(Date.now() - 9e7), notAfter: new Date(Date.now() - 8e7) };
    api.server.setCertificate(await authority.issue(['localhost'], yesterday));
    await expect(connecting('localhost', authority.cert)).rejects.toMatchObject({
      code: 'certificate_invalid',
      message: expect.stringContaining('has expired'),
      remedy: expect.stringContaining('renew'),
    });
  });

  it('NODE_TLS_REJECT_UNAUTHORIZED=0: a foreign certificate is refused all the same', async () => {
    await using api = await startApi({ certificate });
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
    onTestFinished(() => void vi.unstubAllEnvs());
    await expect(connectDaemon({ url: `https://localhost:${api.port}`, apiKey: API_KEY })).rejects.toMatchObject({
      code: 'certificate_invalid',
    });
  });

  it('connectDaemon with the wrong scheme: names the other', async () => {
    await using plain = await startApi();
    await using tls = await startApi({ certificate });
    await expect(connectDaemon({ url: `https://localhost:${plain.port}`, apiKey: API_KEY })).rejects.toMatchObject({
      code: 'address_invalid',
      remedy: expect.stringContaining('http://'),
    });
    await expect(connectDaemon({ url: `http://localhost:${tls.port}`, apiKey: API_KEY })).rejects.toMatchObject({
      code: 'daemon_lost',
      remedy: expect.stringContaining('https://'),
    });
  });

  it('answers of another program: answer_invalid', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nv-api-'));
    const socketPath = join(dir, 's');
    const bodies = ['', 'no JSON', '{"version":1}', '[]'];
    const server = createServer((_request, response) => response.end(bodies.shift()));
    await new Promise<void>((resolve) => server.listen(socketPath, resolve));
    while (bodies.length > 0) {
      await expect(connectDaemon({ socketPath })).rejects.toMatchObject({ code: 'answer_invalid' });
    }
    server.closeAllConnections();
    server.close();
    rmSync(dir, { recursive: true });
  });
});

const PYTHON = `
import json, sys, urllib.error, urllib.parse, urllib.request

base, key, directory = sys.argv[1:]

def call(method, path, body=None, raw=None, kind='application/json'):
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, method=method)
    request.add_header('Authorization', 'Bearer ' + key)
    if data is not None:
        request.add_header('Content-Type', kind)
    try:
        with urllib.request.urlopen(request) as answer:
            content = answer.read()
            is_json = answer.headers.get('Content-Type', '').startswith('application/json')
            return answer.status, json.loads(content) if is_json else content
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())['error']['code']

status, sandbox = call('POST', '/sandboxes', {'env': {'WHO': 'python'}, 'metadata': {'a': 'b'}})
assert status == 201, sandbox
at = '/sandboxes/' + sandbox['id']
status, result = call('POST', at + '/exec', {'code': 'import os; print("hello", os.environ["WHO"])'})
assert (status, result['stdout'], result['exitCode']) == (200, 'hello python\\n', 0), result
file = at + '/files?' + urllib.parse.urlencode({'path': directory + '/ä b.bin'})
content = bytes(range(256)) * 4096
status, entry = call('PUT', file, raw=content, kind='application/octet-stream')
assert (status, entry['bytes']) == (200, len(content)), entry
assert call('GET', file) == (200, content)
assert call('GET', '/sandboxes?metadata=a%3Db')[1]['sandboxes'][0]['id'] == sandbox['id']
assert call('POST', at + '/pause', {'to': 'disk'})[1]['pausedTo'] == 'disk'
assert call('POST', at + '/resume')[1]['status'] == 'running'
assert call('POST', at + '/snapshots', {'name': 'from-python'})[0] == 201
assert call('DELETE', '/snapshots/from-python') == (204, b'')
assert call('POST', at + '/exec', {'argv': []}) == (400, 'request_invalid')
assert call('PUT', at + '/files?path=/proc/none/x', raw=b'x' * 10_000_000, kind='a/b')[0] in (403, 404, 502)
assert call('DELETE', at)[1]['status'] == 'ended'
assert call('POST', at + '/exec', {'argv': ['true']}) == (410, 'gone')
assert call('GET', '/host')[0] == 200
print('all of it')
`;

describe('A client that knows only spec/openapi.json', () => {
  it('Python’s urllib: creates, runs and removes', async () => {
    await using api = await startApi();
    const { id } = await api.control.create({});
    const dir = await api.control.dirOf(id);
    const base = `http://127.0.0.1:${api.port}/v1`;
    const args = ['-c', PYTHON, base, API_KEY, dir];
    const { stdout } = await promisify(execFile)(agentPython, args);
    expect(stdout).toBe('all of it\n');
    expect(existsSync(join(dir, 'ä b.bin'))).toBe(true);
    expect(api.errors).toEqual([]);
  });
});
