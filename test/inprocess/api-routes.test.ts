/** Each route of the REST server with good and bad input, against a control plane in memory. */

import { once } from 'node:events';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { GuestError } from '../../src/machine/guest/errors.ts';
import type { ForkResult, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { BusyError } from '../../src/sandbox/contract/errors.ts';
import { OPENAPI_FILE, openapiDocument } from '../../tools/openapi.ts';
import { type ApiFixture, API_KEY as KEY, type Method, startApi } from '../support/api-fixture.ts';
import { eventually } from '../support/eventually.ts';

let api: ApiFixture;
let before: ((method: string) => void) | undefined;
beforeAll(async () => {
  api = await startApi({ before: (method) => before?.(method) });
});
afterAll(() => api[Symbol.asyncDispose]());

async function create(body: object = {}): Promise<SandboxInfo> {
  const answer = await api.ask('POST', '/sandboxes', body);
  expect(answer.status).toBe(201);
  return answer.json as SandboxInfo;
}

const UNKNOWN_ID = 'aaaaaaaaaaaaaaaaaaaa';
/** So low that no operation of the host would ever pass. */
const SLOW = { size: 5e-324, refillPerSecond: 5e-324 };

describe('sandboxes', () => {
  it('create: accepts no body and all fields', async () => {
    const answer = await api.ask('POST', '/sandboxes');
    expect(answer.status).toBe(201);
    const all = await create({
      cpus: 1,
      memoryMib: 256,
      diskMib: 64,
      warm: ['json'],
      env: { A: 'b' },
      models: {
        defaultModel: 'm',
        allow: null,
        aliases: { a: 'b' },
        allowHosted: ['b'],
        allowFields: ['messages.content.uuid'],
      },
      channelLimits: { connections: { size: 1, refillPerSecond: 2.5, oneTimeBurst: 3 } },
      diskLimits: { bytesPerSecond: 1_000_000, opsPerSecond: 100 },
      console: 'log',
      boot: true,
      queueTimeoutMs: 1000,
      timeoutMs: 60_000,
      onTimeout: 'pause',
      idleTimeoutMs: null,
      autoResume: false,
      metadata: { k: 'v' },
    });
    expect(all).toMatchObject({
      models: { defaultModel: 'm', allowHosted: ['b'], allowFields: ['messages.content.uuid'] },
      cpus: 1,
      memoryMib: 256,
      onTimeout: 'pause',
      autoResume: false,
      origin: 'boot',
      metadata: { k: 'v' },
      diskLimits: { bytesPerSecond: 1_000_000, opsPerSecond: 100 },
    });
  });

  it('create: label length is counted in characters, as in the document', async () => {
    const key = '𝖆'.repeat(64);
    expect(await create({ metadata: { [key]: '𝖇'.repeat(1024) } })).toMatchObject({
      metadata: { [key]: '𝖇'.repeat(1024) },
    });
    const more = await api.ask('POST', '/sandboxes', { metadata: { k: '𝖇'.repeat(1025) } });
    expect(more).toMatchObject({ status: 400, text: expect.stringContaining('body.metadata.k') });
  });

  it('create: names that the document allows and no model can have are content', async () => {
    for (const models of [{ defaultModel: '\n' }, { aliases: { '\n': 'b' } }, { aliases: { '': 'b' } }]) {
      const answer = await api.ask('POST', '/sandboxes', { models });
      expect([answer.status, answer.json]).toMatchObject([400, { error: { code: 'spec_invalid' } }]);
    }
    const mixed = await api.ask('POST', '/sandboxes', { models: { defaultModel: 1, aliases: { '\n': 'b' } } });
    expect(mixed.json).toMatchObject({ error: { code: 'request_invalid' } });
  });

  it('name: stands for the id in each path, and is unique', async () => {
    const { id } = await create({ name: 'Web.1' });
    expect(await api.ask('GET', '/sandboxes/Web.1')).toMatchObject({ status: 200, json: { id, name: 'Web.1' } });
    expect(await api.ask('GET', '/sandboxes?name=Web.1')).toMatchObject({ json: { sandboxes: [{ id }] } });
    const taken = await api.ask('POST', '/sandboxes', { name: 'Web.1' });
    expect([taken.status, taken.json]).toMatchObject([409, { error: { code: 'name_taken' } }]);
    expect(await api.ask('PATCH', '/sandboxes/Web.1', { metadata: { k: 'v' } })).toMatchObject({ json: { id } });
    expect(await api.ask('GET', '/sandboxes/Web.1/logs')).toMatchObject({ status: 200 });
    expect(await api.ask('DELETE', '/sandboxes/Web.1')).toMatchObject({ status: 200, json: { id } });
    const gone = await api.ask('GET', '/sandboxes/Web.1');
    expect([gone.status, gone.json]).toMatchObject([404, { error: { code: 'not_found' } }]);
    const asId = await api.ask('POST', '/sandboxes', { name: 'a'.repeat(20) });
    expect([asId.status, asId.json]).toMatchObject([400, { error: { code: 'spec_invalid' } }]);
    for (const name of ['a', '.a', 'a b', 'x/y', 'x'.repeat(64)]) {
      const wrong = await api.ask('POST', '/sandboxes', { name });
      expect([wrong.status, wrong.json]).toMatchObject([400, { error: { code: 'request_invalid' } }]);
    }
  });

  it('list: filters by status and metadata', async () => {
    const { id } = await create({ metadata: { job: 'a=b', user: 'x' } });
    await create({ metadata: { job: 'other' } });
    const ids = async (query: string): Promise<string[]> => {
      const { json } = await api.ask('GET', `/sandboxes?${query}`);
      return (json as { sandboxes: SandboxInfo[] }).sandboxes.map((sandbox) => sandbox.id);
    };
    expect(await ids('metadata=job=a%3Db')).toEqual([id]);
    expect(await ids('metadata=job=a%3Db&metadata=user=x&status=running,paused')).toEqual([id]);
    expect(await ids('metadata=job=a%3Db&metadata=user=y')).toEqual([]);
    expect(await ids('metadata=job=a%3Db&status=running&status=paused')).toEqual([id]);
    expect(await ids('metadata=job=a%3Db&status=paused')).toEqual([]);
  });

  it('list: others have their turn of the event loop while many sandboxes are written', async () => {
    const metadata = Object.fromEntries(Array.from({ length: 32 }, (_, nth) => [`k${nth}`, 'x'.repeat(1024)]));
    const ids: string[] = [];
    for (let made = 0; made < 64; made += 1) {
      ids.push(((await api.ask('POST', '/sandboxes', { metadata })).json as SandboxInfo).id);
    }
    const turnsOf = async (path: string): Promise<number> => {
      let [turns, isOver] = [0, false];
      const count = (): void => {
        turns += 1;
        if (!isOver) setImmediate(count);
      };
      setImmediate(count);
      const { json } = await api.ask('GET', path);
      isOver = true;
      const listed = (json as { sandboxes: SandboxInfo[] }).sandboxes.map(({ id }) => id);
      expect(listed).toEqual(path.includes('?') ? [] : expect.arrayContaining(ids));
      return turns;
    };
    const few = await turnsOf('/sandboxes?name=none');
    // Two of them in each turn.
    expect(await turnsOf('/sandboxes')).toBeGreaterThan(few + 30);
    for (const id of ids) await api.ask('DELETE', `/sandboxes/${id}`);
  });

  it('pause, resume, update, remove: return the sandbox', async () => {
    const { id } = await create();
    const at = `/sandboxes/${id}`;
    const state = async (method: Method, path: string, body?: object): Promise<unknown> =>
      (await api.ask(method, at + path, body)).json;
    expect(await state('POST', '/pause')).toMatchObject({ status: 'paused', pausedTo: 'memory' });
    expect((await api.ask('POST', `${at}/pause`, { to: 'disk' })).status).toBe(409);
    expect(await state('POST', '/resume')).toMatchObject({ status: 'running' });
    expect(await state('POST', '/pause', { to: 'disk-only' })).toMatchObject({ pausedTo: 'disk-only' });
    expect((await api.ask('POST', `${at}/exec`, { argv: ['true'] })).status).toBe(409);
    expect(await state('POST', '/resume', { reboot: true })).toMatchObject({ status: 'running' });
    expect((await api.ask('POST', `${at}/resume`, { reboot: 'yes' })).status).toBe(400);
    expect(await state('POST', '/pause', { to: 'disk' })).toMatchObject({ pausedTo: 'disk' });
    expect(await state('PATCH', '', { onTimeout: 'pause' })).toMatchObject({ onTimeout: 'pause' });
    expect(await state('PATCH', '', { timeoutMs: null })).toMatchObject({ endsAtMs: null });
    expect(await state('DELETE', '')).toMatchObject({ status: 'ended' });
    expect(await state('GET', '')).toMatchObject({ end: { cause: 'stopped' } });
    expect((await api.ask('POST', `${at}/resume`)).status).toBe(410);
  });

  it('fork, snapshot: return the copies and the snapshot', async () => {
    const { id } = await create();
    const forks = await api.ask('POST', `/sandboxes/${id}/fork`, { count: 2 });
    expect(forks.status).toBe(201);
    const results = (forks.json as { forks: ForkResult[] }).forks;
    expect(results).toMatchObject([
      { ok: true, sandbox: { parent: id } },
      { ok: true, sandbox: { parent: id } },
    ]);
    const taken = await api.ask('POST', `/sandboxes/${id}/snapshots`, { name: 'base' });
    expect(taken.json).toMatchObject({ name: 'base', sandbox: id });
    const again = await api.ask('POST', `/sandboxes/${id}/snapshots`, { name: 'base' });
    expect([again.status, again.json]).toMatchObject([409, { error: { code: 'name_taken' } }]);
    expect(await create({ snapshot: 'base' })).toMatchObject({ origin: 'snapshot' });
    expect((await api.ask('GET', '/snapshots')).json).toMatchObject({ snapshots: [{ name: 'base' }] });
    expect((await api.ask('DELETE', '/snapshots/base')).status).toBe(204);
    expect((await api.ask('DELETE', '/snapshots/base')).status).toBe(404);
    expect((await api.ask('POST', '/sandboxes', { snapshot: 'base' })).status).toBe(404);
  });

  it('create: the same Idempotency-Key returns the same sandbox', async () => {
    const ask = (payload: object) =>
      api.server.app.inject({
        method: 'POST',
        url: '/v1/sandboxes',
        headers: { host: 'localhost', 'x-api-key': KEY, 'idempotency-key': 'once' },
        payload,
      });
    const answers = await Promise.all([ask({}), ask({}), ask({})]);
    expect(new Set(answers.map((answer) => answer.json<SandboxInfo>().id)).size).toBe(1);
    expect((await ask({ cpus: 2 })).statusCode).toBe(409);
  });
});

describe('host and pools', () => {
  it('answer', async () => {
    expect((await api.ask('GET', '/host')).json).toMatchObject({ accelerator: 'fake' });
    expect((await api.ask('PUT', '/pools', { min: 1, max: 2 })).json).toMatchObject({ max: 2 });
    const small = await api.ask('PUT', '/pools', { min: 0, max: 1, spec: { memoryMib: 256 } });
    expect(small.json).toMatchObject({ spec: { memoryMib: 256 } });
    expect((await api.ask('GET', '/pools')).json).toMatchObject({ pools: [{}, {}] });
    expect((await api.ask('GET', '/health')).json).toEqual({ status: 'ok' });
  });

  it('openapi.json: the committed document matches the schemas', async () => {
    const committed: unknown = JSON.parse(readFileSync(OPENAPI_FILE, 'utf8'));
    expect(await openapiDocument()).toEqual(committed);
    expect((await api.ask('GET', '/openapi.json')).json).toEqual(committed);
  });
});

describe('invalid input: refused with the name of the field', () => {
  it.each<[Method, string, unknown, number, string]>([
    ['POST', '/sandboxes', { cpus: 'x' }, 400, 'body.cpus'],
    ['POST', '/sandboxes', { cpus: 1.5 }, 400, 'body.cpus'],
    ['POST', '/sandboxes', { cpus: 4096 }, 400, 'cpus'],
    ['POST', '/sandboxes', { cpu: 1 }, 400, '"cpu"'],
    ['POST', '/sandboxes', [], 400, 'body'],
    ['POST', '/sandboxes', { console: 'interactive' }, 400, 'body.console'],
    ['POST', '/sandboxes', { env: { A: 1 } }, 400, 'body.env.A'],
    ['POST', '/sandboxes', { env: { 'A B': '1' } }, 400, 'env'],
    ['POST', '/sandboxes', { warm: ['os; print(1)'] }, 400, 'warm'],
    ['POST', '/sandboxes', { snapshot: '../x' }, 400, 'body.snapshot'],
    ['POST', '/sandboxes', { metadata: { k: 'x'.repeat(1025) } }, 400, 'body.metadata.k'],
    ['POST', '/sandboxes', { cpus: 0 }, 400, 'body.cpus: expected a whole number from 1 to 32'],
    ['POST', '/sandboxes', { memoryMib: 1 }, 400, 'memoryMib: expected a whole number from 128 to'],
    ['POST', '/sandboxes', { timeoutMs: 0 }, 400, 'timeoutMs: expected a whole number from 1 to'],
    ['POST', '/sandboxes', { idleTimeoutMs: 1 }, 400, 'idleTimeoutMs: expected a whole number from'],
    ['PUT', '/pools', { min: 1, max: 3000 }, 400, 'body.max: expected a whole number from 0 to 256'],
    ['GET', '/sandboxes?status=asleep', undefined, 400, 'querystring.status'],
    ['GET', '/sandboxes?page=2', undefined, 400, '"page"'],
    ['GET', `/sandboxes/${UNKNOWN_ID}`, undefined, 404, UNKNOWN_ID],
    ['GET', '/sandboxes/a', undefined, 400, 'params.id'],
    ['GET', '/sandboxes/..%2F..%2Fetc%2Fpasswd', undefined, 400, 'params.id'],
    ['DELETE', '/sandboxes/%00', undefined, 400, 'params.id'],
    ['GET', '/sandboxes/unknown-name', undefined, 404, 'unknown-name'],
    ['GET', `/sandboxes/${'x'.repeat(64)}`, undefined, 400, 'params.id'],
    ['POST', `/sandboxes/${UNKNOWN_ID}/pause`, { to: 'tape' }, 400, 'body.to'],
    ['POST', `/sandboxes/${UNKNOWN_ID}/fork`, { count: 65 }, 400, 'count: expected a whole number from 1 to 64'],
    ['POST', `/sandboxes/${UNKNOWN_ID}/snapshots`, { name: 'a/b' }, 400, 'body.name'],
    ['POST', `/sandboxes/${UNKNOWN_ID}/exec`, {}, 400, 'argv'],
    ['POST', `/sandboxes/${UNKNOWN_ID}/exec`, { argv: ['a'], code: 'b' }, 400, 'argv'],
    ['POST', `/sandboxes/${UNKNOWN_ID}/exec`, { argv: [] }, 400, 'body: argv: '],
    ['POST', `/sandboxes/${UNKNOWN_ID}/exec`, { code: 'x', cwd: '' }, 400, 'body: cwd: '],
    ['POST', `/sandboxes/${UNKNOWN_ID}/exec`, { code: 'x', more: 1 }, 400, '"more"'],
    ['POST', `/sandboxes/${UNKNOWN_ID}/exec`, { argv: ['a'], args: ['b'] }, 400, 'args'],
    ['POST', `/sandboxes/${UNKNOWN_ID}/exec`, { argv: ['a'] }, 404, UNKNOWN_ID],
    ['DELETE', '/snapshots/a%2Fb%2Fc', undefined, 400, 'params.snapshot'],
    ['PUT', '/pools', { min: 1 }, 400, 'body.max'],
    ['PUT', '/pools', { min: 1, max: 2, spec: { gpus: 1 } }, 400, '"gpus"'],
    ['GET', `/sandboxes/${UNKNOWN_ID}/files`, undefined, 400, 'querystring.path'],
    ['GET', `/sandboxes/${UNKNOWN_ID}/files/list?path=/&depth=x`, undefined, 400, 'depth'],
    ['GET', `/sandboxes/${UNKNOWN_ID}/operations`, undefined, 426, 'upgrade'],
    ['GET', '/nothing', undefined, 404, 'route'],
    ['DELETE', '/host', undefined, 405, 'this path takes GET'],
    ['POST', '/sandboxes', 'null', 400, 'body'],
    ['POST', '/sandboxes', { channelLimits: { hostToGuestBytes: SLOW } }, 400, 'hostToGuestBytes'],
    ['PATCH', `/sandboxes/${UNKNOWN_ID}`, { channelLimits: { connections: SLOW } }, 400, 'conn'],
    ['GET', `/sandboxes/${UNKNOWN_ID}/files/list?path=/&depth=0`, undefined, 400, 'depth'],
    ['GET', `/sandboxes/${UNKNOWN_ID}/events?follow=maybe`, undefined, 400, 'true or false'],
    ['GET', `/sandboxes/${UNKNOWN_ID}/events?after=1e3`, undefined, 400, 'after'],
  ])('%s %s %j: %i', async (method, path, body, status, names) => {
    const answer = await api.ask(method, path, body);
    expect(answer.status).toBe(status);
    expect((answer.json as { error: { message: string } }).error.message).toContain(names);
    expect(api.errors).toEqual([]);
  });
});

describe('methods that a path does not have', () => {
  it.each([
    ['TRACE', '/v1/sandboxes', 'POST, GET'],
    ['QUERY', '/v1/sandboxes', 'POST, GET'],
    ['OPTIONS', `/v1/sandboxes/${UNKNOWN_ID}/files?path=x`, 'GET, PUT, DELETE'],
    ['HEAD', '/metrics', 'GET'],
  ])('%s %s: 405, with the allowed methods', async (method, path, allow) => {
    const { promise: answered, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const { socketPath } = api;
    request({ socketPath, method, path, headers: { host: 'localhost' } }, resolve)
      .on('error', reject)
      .end();
    const answer = (await answered).resume();
    expect([answer.statusCode, answer.headers.allow]).toEqual([405, allow]);
    expect(api.errors).toEqual([]);
  });
});

describe('errors of the control plane', () => {
  it('busy: 429 with Retry-After', async () => {
    before = () => {
      throw new BusyError('create: the queue is full', 2500);
    };
    const answer = await api.ask('POST', '/sandboxes');
    before = undefined;
    expect(answer.status).toBe(429);
    expect(answer.headers['retry-after']).toBe('3');
    expect(answer.json).toMatchObject({ error: { code: 'busy', retryAfterMs: 2500 } });
  });

  it('internal: 500 without details, which are in the log', async () => {
    before = () => {
      throw new TypeError('secret detail');
    };
    const answer = await api.ask('GET', '/host');
    before = undefined;
    expect(answer.status).toBe(500);
    expect(answer.text).not.toContain('secret');
    expect(api.errors.splice(0)).toEqual([expect.stringContaining('secret detail')]);
  });
});

describe('programs and files', () => {
  it('exec: runs argv and code with input, environment and exit status', async () => {
    const { id } = await create({ env: { A: 'from the sandbox' } });
    const exec = async (body: object): Promise<unknown> => (await api.ask('POST', `/sandboxes/${id}/exec`, body)).json;
    const argv = ['sh', '-c', 'echo "$A $B"; cat; echo bad >&2; exit 3'];
    expect(await exec({ argv, env: { B: 'b' }, stdin: 'in' })).toMatchObject({
      exitCode: 3,
      stdout: 'from the sandbox b\nin',
      stderr: 'bad\n',
      truncated: false,
    });
    const code = 'import sys; print(sys.argv[1:], sys.stdin.read())';
    expect(await exec({ code, args: ['x'] })).toMatchObject({ stdout: "['x'] \n" });
    expect(await exec({ argv: ['sleep', '60'], timeoutMs: 50 })).toMatchObject({ timedOut: true });
    expect(await exec({ argv: ['echo', '12345678'], outputBytesMax: 4 })).toMatchObject({
      stdout: '1234',
      truncated: true,
    });
    expect(await exec({ argv: ['no-such-program'] })).toMatchObject({ error: { code: 'guest_not_found' } });
  });

  it('output and exit: of a detached program, from an offset, and after its end', async () => {
    const { id } = await create();
    const guest = await api.control.guest(id);
    const script = 'printf abc; printf "\\377" >&2; read a; exit 5';
    const program = await guest.exec({ argv: ['sh', '-c', script], detached: true });
    await once(program.stderr, 'data');
    const at = `/sandboxes/${id}/processes/${program.pid}`;
    expect((await api.ask('GET', `${at}/output?stdout=1`)).json).toEqual({
      from: { stdout: 1, stderr: 0 },
      to: { stdout: 3, stderr: 1 },
      stdout: 'bc',
      stderr: '/w==',
      encoding: { stdout: 'utf8', stderr: 'base64' },
    });
    expect((await api.ask('GET', `${at}/output?stdout=4`)).json).toMatchObject({
      error: { message: expect.stringContaining('stdout has 3 bytes') },
    });
    const waiting = api.ask('GET', `${at}/exit`);
    program.stdin.end('go\n');
    expect((await waiting).json).toMatchObject({ exitCode: 5, signal: null });
    expect((await api.ask('GET', `${at}/exit`)).json).toMatchObject({ exitCode: 5 });
    expect((await api.ask('GET', `/sandboxes/${id}/processes`)).json).toMatchObject({
      processes: [],
      ended: [{ pid: program.pid, detached: true, exit: { exitCode: 5 } }],
    });
    const unknown = await api.ask('GET', `/sandboxes/${id}/processes/2147483647/exit`);
    expect([unknown.status, unknown.json]).toMatchObject([404, { error: { code: 'guest_not_found' } }]);
  });

  it('exec: keeps at most 16 MiB of output', async () => {
    const { id } = await create();
    const argv = ['head', '-c', '17825792', '/dev/zero'];
    const { json } = await api.ask('POST', `/sandboxes/${id}/exec`, { argv });
    const { stdout, truncated } = json as { stdout: string; truncated: boolean };
    expect([stdout.length, truncated]).toEqual([16 * 1024 * 1024, true]);
  });

  it('files: write, read, list, remove', async () => {
    const { id } = await create();
    const dir = await api.control.dirOf(id);
    const at = `/sandboxes/${id}/files`;
    const path = `${dir}/sub/a b.bin`;
    const query = `?path=${encodeURIComponent(path)}`;
    const content = Buffer.from([0, 255, 10, 13, 128]);
    const written = await api.ask('PUT', `${at}${query}&mode=600`, content);
    expect(written.json).toMatchObject({ path, bytes: 5, mode: 0o600 });
    expect(readFileSync(path)).toEqual(content);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const read = await api.server.app.inject({
      method: 'GET',
      url: `/v1${at}${query}`,
      headers: { host: 'localhost', 'x-api-key': KEY },
    });
    expect(read.headers['content-type']).toBe('application/octet-stream');
    expect(read.rawPayload).toEqual(content);
    const listed = await api.ask('GET', `${at}/list?path=${encodeURIComponent(join(dir, 'sub'))}`);
    expect(listed.json).toMatchObject({ entries: [{ name: 'a b.bin', type: 'file' }] });
    // JSON is only bytes here, too.
    await api.ask('PUT', `${at}${query}`, { not: 'parsed' });
    expect(readFileSync(path, 'utf8')).toBe('{"not":"parsed"}');
    await api.ask('PUT', `${at}${query}`);
    expect(statSync(path).size).toBe(0);
    expect((await api.ask('DELETE', `${at}${query}`)).status).toBe(204);
    expect(existsSync(path)).toBe(false);
    expect((await api.ask('GET', `${at}${query}`)).json).toMatchObject({ error: { code: 'guest_not_found' } });
  });

  it('exec: programs of one sandbox leave slots for another', async () => {
    const [greedy, other] = [await create(), await create()];
    const exec = (id: string, argv: string[]) => api.ask('POST', `/sandboxes/${id}/exec`, { argv });
    const release = Promise.withResolvers<never>();
    const { control } = api;
    const guestOf = control.guest.bind(control);
    control.guest = (id) => (id === greedy.id ? release.promise : guestOf(id));
    const waiting = Array.from({ length: 32 }, () => exec(greedy.id, ['true']));
    await new Promise(setImmediate);
    const refused = await exec(greedy.id, ['true']);
    expect([refused.status, refused.text]).toEqual([
      429,
      expect.stringContaining(`sandbox ${greedy.id}: 32 programs are in progress`),
    ]);
    expect((await exec(other.id, ['true'])).json).toMatchObject({ exitCode: 0 });
    release.reject(new GuestError('connection_lost', 'gone'));
    await Promise.all(waiting);
    control.guest = guestOf;
  });

  it('exec: programs of one sandbox share a memory budget for output, and report dropped output', async () => {
    const { id } = await create();
    const dir = await api.control.dirOf(id);
    // What is sent no longer counts: none ends before all have printed.
    const script = 'yes | head -c 16777216; touch "printed-$0"; until [ -e go ]; do sleep 0.1; done';
    const run = async (name: string): Promise<number> => {
      const argv = ['sh', '-c', script, name];
      const { json } = await api.ask('POST', `/sandboxes/${id}/exec`, { argv, cwd: dir });
      const { stdout, truncated } = json as { stdout: string; truncated: boolean };
      expect(truncated).toBe(stdout.length < 16 * MIB);
      return stdout.length;
    };
    const names = Array.from({ length: 8 }, (_, at) => `${at}`);
    const running = Promise.all(names.map(run));
    await eventually(() => expect(names.filter((name) => !existsSync(join(dir, `printed-${name}`)))).toEqual([]));
    writeFileSync(join(dir, 'go'), '');
    const lengths = await running;
    const sum = lengths.reduce((total, length) => total + length, 0);
    expect(sum).toBeGreaterThan(32 * MIB);
    expect(sum).toBeLessThanOrEqual(64 * MIB);
    expect(await run('again')).toBe(16 * MIB);
  });

  it('list: a guest that never answers takes only its own 4 slots, until its clients disconnect', async () => {
    const hung = await create();
    const other = await create();
    const { control } = api;
    const release = Promise.withResolvers<never>();
    const guestOf = control.guest.bind(control);
    control.guest = (id) => (id === hung.id ? release.promise : guestOf(id));
    const list = (id: string) => api.ask('GET', `/sandboxes/${id}/files/list?path=/`);
    const waiting = Array.from({ length: 4 }, () => list(hung.id));
    await new Promise(setImmediate);
    const refused = await list(hung.id);
    expect(refused.status).toBe(429);
    expect(refused.text).toContain(`sandbox ${hung.id}: 4 listings are in progress`);
    expect((await list(other.id)).status).toBe(200);
    release.reject(new GuestError('connection_lost', 'gone'));
    await Promise.all(waiting);
    control.guest = guestOf;
    expect((await list(hung.id)).status).toBe(200);
  });

  it('guest, processes, channel, usage: return the control plane’s data', async () => {
    const { id } = await create();
    const guest = await api.control.guest(id);
    const process = await guest.exec({ argv: ['cat'], tag: 'here' });
    const get = async (path: string): Promise<unknown> => (await api.ask('GET', `/sandboxes/${id}/${path}`)).json;
    expect(await get('guest')).toMatchObject({ overlay: 'none' });
    expect(await get('processes')).toMatchObject({ processes: [{ pid: process.pid, tag: 'here' }] });
    expect(await get('channel')).toMatchObject({ protocolErrors: 0 });
    expect(await get('usage')).toEqual({ usage: [] });
    process.kill();
  });
});
