/**
 * Edge cases of programs and files in E2B's envd: with the unmodified client if it can express them, else with raw
 * requests.
 */
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { endFrame, frameOf } from '../../src/api/e2b/envd/connect.ts';
import { E2B_LIMITS } from '../../src/api/e2b/limits.ts';
import { fileSignature } from '../../src/api/e2b/tokens.ts';
import { SandboxError } from '../../src/sandbox/contract/errors.ts';
import { REQUEST_LIMITS } from '../../src/sandbox/contract/limits.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';

let world: E2bWorld;
let home: string;
let sandbox: Sandbox;
let token: string;
let onGuest = (): void => undefined;
let called: string[] = [];

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'nv-e2b-envd-'));
  const before = (method: string): void => {
    called.push(method);
    if (method === 'guest') onGuest();
  };
  world = await openE2bWorld({ home, before });
  sandbox = await Sandbox.create('agent', world.client);
  const headers = { 'x-api-key': world.apiKey };
  const answer = await fetch(`${world.url}/sandboxes/${sandbox.sandboxId}`, { headers });
  token = ((await answer.json()) as { readonly envdAccessToken: string }).envdAccessToken;
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  rmSync(home, { recursive: true, force: true });
});

const headers = (more: Readonly<Record<string, string>> = {}): Record<string, string> => ({
  'e2b-sandbox-id': sandbox.sandboxId,
  'e2b-sandbox-port': '49983',
  'x-access-token': token,
  'accept-encoding': 'identity',
  ...more,
});
const ask = async (path: string, init: RequestInit = {}): Promise<Response> =>
  await fetch(`${world.url}${path}`, { ...init, headers: headers(init.headers as Record<string, string>) });
const call = async (name: string, message: unknown): Promise<{ status: number; body: unknown }> => {
  const answer = await ask(`/${name}`, {
    method: 'POST',
    body: JSON.stringify(message),
    headers: { 'content-type': 'application/json' },
  });
  return { status: answer.status, body: await answer.json() };
};

describe('programs', () => {
  it('know that they run in a sandbox, and from which template', async () => {
    const { stdout } = await sandbox.commands.run('echo $E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID');
    expect(stdout).toBe(`true ${sandbox.sandboxId} agent\n`);
  });

  it('are refused in a directory that is missing', async () => {
    await expect(sandbox.commands.run('true', { cwd: '/missing' })).rejects.toThrow("cwd '/missing' does not exist");
  });

  it('are ended by the call’s timeout', async () => {
    const late = sandbox.commands.run('sleep 1000', { timeoutMs: 500 });
    await expect(late).rejects.toMatchObject({ name: 'TimeoutError' });
    await expect.poll(async () => (await sandbox.commands.list()).length).toBe(0);
  });

  it('keep their exit for a client that comes late, by pid and by tag', async () => {
    const start = { process: { cmd: '/bin/sh', args: ['-c', 'exit 7'] }, tag: 'late' };
    const first = await stream('process.Process/Start', start);
    expect(first).toContain('"status":"exit status 7"');
    const again = await stream('process.Process/Connect', { process: { tag: 'late' } });
    expect(again).toContain('"exitCode":7');
    const unknown = await stream('process.Process/Connect', { process: { pid: 999_999 } });
    expect(unknown).toContain('"code":"not_found"');
  });

  it('are refused by the number of their arguments, variables and fields', async () => {
    const numbers = Array.from({ length: 70_000 }, () => 0);
    const pairs = { ...numbers.slice(0, 8000) };
    const { messageFieldsMax } = E2B_LIMITS;
    const many = await stream('process.Process/Start', { other: [...numbers, ...numbers] });
    expect(many).toContain('"code":"resource_exhausted"');
    for (const [message, problem] of [
      [{ process: { cmd: 'a', args: numbers } }, `process.args: expected at most ${REQUEST_LIMITS.argumentsMax}`],
      [{ process: { cmd: 'a', envs: pairs } }, 'process.envs: expected at most 4096 pairs'],
      [{ process: { cmd: 'a', other: pairs } }, `a message has at most ${messageFieldsMax} fields`],
      [nested(1000), `a message has at most ${messageFieldsMax} fields`],
    ] as const) {
      const answer = await stream('process.Process/Start', message);
      expect(answer).toContain(`"error":{"code":"invalid_argument","message":"${problem}"}`);
    }
  });

  it('are listed as they were started', async () => {
    const long = 'x'.repeat(1000);
    const running = await sandbox.commands.run(`sleep 1000 # ${long}`, { background: true, envs: { A: 'b' } });
    const [listed] = await sandbox.commands.list();
    expect(listed).toMatchObject({ args: ['-l', '-c', `sleep 1000 # ${long}`], envs: { A: 'b' } });
    await running.kill();
  });

  it('have terminals with a size', async () => {
    let text = '';
    const terminal = await sandbox.pty.create({
      cols: 80,
      rows: 24,
      onData: (data) => {
        text += Buffer.from(data).toString();
      },
    });
    await sandbox.pty.resize(terminal.pid, { cols: 91, rows: 33 });
    await sandbox.pty.sendInput(terminal.pid, Buffer.from('stty size; exit 4\n'));
    await expect(terminal.wait()).rejects.toMatchObject({ exitCode: 4 });
    expect(text).toContain('33 91');
  });

  it('accept a stream of input', async () => {
    const running = await sandbox.commands.run('cat', { background: true, stdin: true });
    const data = (word: string) => ({ data: { input: { stdin: Buffer.from(word).toString('base64') } } });
    const frames = [{ start: { process: { pid: running.pid } } }, data('a'), { keepalive: {} }, data('b\n')];
    const answer = await stream('process.Process/StreamInput', ...frames);
    expect(answer).not.toContain('error');
    await sandbox.commands.closeStdin(running.pid);
    expect((await running.wait()).stdout).toBe('ab\n');
    const none = await sandbox.commands.run('sleep 1000', { background: true });
    await expect(sandbox.commands.sendStdin(none.pid, 'x')).rejects.toThrow('without input');
    await none.kill();
  });

  it('send their whole output to each of several clients', async () => {
    const lines = 60_000;
    const running = await sandbox.commands.run(`read go; seq ${lines}`, { background: true, stdin: true });
    const second = await sandbox.commands.connect(running.pid);
    await sandbox.commands.sendStdin(running.pid, 'go\n');
    const [{ stdout }, other] = await Promise.all([running.wait(), second.wait()]);
    expect(stdout.split('\n').length).toBe(lines + 1);
    expect(other.stdout).toBe(stdout);
  });
});

describe('directories', () => {
  it('are watched, by a stream and by polling', async () => {
    await sandbox.files.makeDir('watched');
    const events: string[] = [];
    const handle = await sandbox.files.watchDir('watched', (event) => {
      events.push(`${event.type} ${event.name}`);
    });
    const created = await call('filesystem.Filesystem/CreateWatcher', {
      path: 'watched',
      recursive: true,
      includeEntry: true,
    });
    const { watcherId } = created.body as { readonly watcherId: string };
    await sandbox.files.write('watched/a.txt', 'a');
    await expect.poll(() => events).toContain('create a.txt');
    const asked: unknown[] = [];
    await expect
      .poll(async () => {
        const { body } = await call('filesystem.Filesystem/GetWatcherEvents', { watcherId });
        asked.push(...((body as { readonly events?: unknown[] }).events ?? []));
        return asked;
      })
      .toContainEqual(
        expect.objectContaining({
          name: 'a.txt',
          type: 'EVENT_TYPE_CREATE',
          entry: expect.objectContaining({ type: 'FILE_TYPE_FILE' }),
        }),
      );
    await handle.stop();
    const removed = await call('filesystem.Filesystem/RemoveWatcher', { watcherId });
    expect(removed).toEqual({ status: 200, body: {} });
    const gone = await call('filesystem.Filesystem/GetWatcherEvents', { watcherId });
    expect(gone).toMatchObject({ status: 404, body: { code: 'not_found' } });
  });

  it('are not watched if they are files, or missing', async () => {
    await sandbox.files.write('plain.txt', '');
    const create = async (path: string) => (await call('filesystem.Filesystem/CreateWatcher', { path })).body;
    expect(await create('plain.txt')).toMatchObject({ code: 'invalid_argument' });
    expect(await create('nowhere')).toMatchObject({ code: 'not_found' });
  });

  it('show links as their targets', async () => {
    await sandbox.files.write('links/file', 'abc');
    await sandbox.commands.run('ln -s file one; ln -s one two; ln -s nowhere broken', { cwd: `${home}/links` });
    const { body } = await call('filesystem.Filesystem/ListDir', { path: 'links', depth: 1 });
    const { entries } = body as { readonly entries: readonly { readonly name: string }[] };
    expect(entries.map(({ name }) => name)).toEqual(['broken', 'file', 'one', 'two']);
    expect(entries[3]).toMatchObject({
      type: 'FILE_TYPE_FILE',
      mode: 0o644,
      symlinkTarget: join(home, 'links/file'),
      permissions: 'Lrwxrwxrwx',
    });
    expect(entries[0]).toMatchObject({ type: 'FILE_TYPE_UNSPECIFIED' });
    expect(await sandbox.files.makeDir('links')).toBe(false);
  });
});

describe('content', () => {
  it('is downloaded in part, if it has changed, and compressed on request', async () => {
    await sandbox.files.write('part.txt', '0123456789');
    const whole = await ask('/files?path=part.txt');
    expect(whole.headers.get('content-length')).toBe('10');
    const part = await ask('/files?path=part.txt', { headers: { range: 'bytes=3-5' } });
    expect([part.status, part.headers.get('content-range'), await part.text()]).toEqual([206, 'bytes 3-5/10', '345']);
    const beyond = await ask('/files?path=part.txt', { headers: { range: 'bytes=10-' } });
    expect([beyond.status, beyond.headers.get('content-range')]).toEqual([416, 'bytes */10']);
    const since = whole.headers.get('last-modified') ?? '';
    const same = await ask('/files?path=part.txt', { headers: { 'if-modified-since': since } });
    expect(same.status).toBe(304);
    const packed = await ask('/files?path=part.txt', { headers: { 'accept-encoding': 'gzip' } });
    expect(packed.headers.get('content-encoding')).toBe('gzip');
    expect(await packed.text()).toBe('0123456789');
  });

  it('may be empty, of the kernel, missing, or a directory', async () => {
    await sandbox.files.write('empty', '');
    const empty = await ask('/files?path=empty');
    expect([empty.status, empty.headers.get('content-length')]).toEqual([200, '0']);
    expect(await (await ask('/files?path=/proc/self/status')).text()).toContain('Name:');
    const missing = await ask('/files?path=missing');
    expect([missing.status, await missing.json()]).toEqual([
      404,
      { code: 404, message: expect.stringContaining("path 'missing' does not exist") as string },
    ]);
    await sandbox.files.makeDir('folder');
    expect((await ask('/files?path=folder')).status).toBe(400);
  });

  it('is uploaded compressed, with metadata that the next upload replaces', async () => {
    const post = async (path: string, body: Buffer, more: Record<string, string>) =>
      await ask(`/files?path=${path}`, {
        method: 'POST',
        body: new Uint8Array(body),
        headers: { 'content-type': 'application/octet-stream', ...more },
      });
    const packed = await post('packed', gzipSync('content'), { 'content-encoding': 'gzip', 'x-metadata-Author': 'me' });
    expect(await packed.json()).toEqual([
      { name: 'packed', path: join(home, 'packed'), type: 'file', metadata: { author: 'me' } },
    ]);
    expect(await sandbox.files.read('packed')).toBe('content');
    expect((await sandbox.files.getInfo('packed')).metadata).toEqual({ author: 'me' });
    await post('packed', Buffer.from('again'), {});
    expect((await sandbox.files.getInfo('packed')).metadata ?? {}).toEqual({});
    const broken = await post('packed', Buffer.from('no gzip'), { 'content-encoding': 'gzip' });
    expect(broken.status).toBe(400);
    const cut = gzipSync(Buffer.alloc(100_000, 'ab')).subarray(0, -20);
    expect(gunzipSync(gzipSync('x')).toString()).toBe('x');
    expect((await post('packed', cut, { 'content-encoding': 'gzip' })).status).toBe(400);
    expect(await sandbox.files.read('packed')).toBe('again');
    // The answer does not wait for the guest to remove the partial file.
    const parts = (): string[] => readdirSync(home).filter((name) => name.endsWith('.part'));
    await expect.poll(parts).toEqual([]);
  });

  it('leaves no file if the upload ends early', async () => {
    const upload = async (text: string, length = text.length) => {
      const socket = connect(Number(new URL(world.url).port), '127.0.0.1');
      const head = Object.entries(headers({ 'content-type': 'multipart/form-data; boundary=B' }));
      socket.write(
        `POST /files?path=cut.txt HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${length}\r\n` +
          `${head.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n${text}`,
      );
      return socket;
    };
    const part = '--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nsome content';
    const socket = await upload(part, 1000);
    await expect.poll(() => readdirSync(home).some((name) => name.endsWith('.part'))).toBe(true);
    socket.destroy();
    await expect.poll(() => readdirSync(home).some((name) => name.endsWith('.part'))).toBe(false);
    // The body is complete, but the last part is not.
    const whole = await upload(part);
    let answer = '';
    whole.on('data', (data: Buffer) => {
      answer += data.toString();
    });
    await expect.poll(() => answer).toContain('400 Bad Request');
    whole.destroy();
    expect(readdirSync(home)).not.toContain('cut.txt');
  });

  it('whose client disconnects in the middle is no error of the server', async () => {
    await sandbox.commands.run('truncate -s 50M large');
    const begin = (method: string, more: Record<string, string>, body = '') => {
      const socket = connect(Number(new URL(world.url).port), '127.0.0.1');
      const lines = Object.entries(headers(more)).map(([name, value]) => `${name}: ${value}\r\n`);
      socket.write(`${method} /files?path=large HTTP/1.1\r\nHost: localhost\r\n${lines.join('')}\r\n${body}`);
      return socket;
    };
    for (const more of [{}, { 'accept-encoding': 'gzip' }, { range: 'bytes=5-40000000' }]) {
      const socket = begin('GET', more as Record<string, string>);
      await once(socket, 'data');
      socket.destroy();
    }
    const stream = { 'content-type': 'application/octet-stream', 'content-length': '1000' };
    const upload = begin('POST', stream, 'a part');
    await expect.poll(() => readdirSync(home).some((name) => name.endsWith('.part'))).toBe(true);
    upload.destroy();
    await expect.poll(() => readdirSync(home).some((name) => name.endsWith('.part'))).toBe(false);
    for (let n = 0; n < 5; n += 1) await ask('/health');
    expect(world.errors).toEqual([]);
  });

  it('that read files ask for no more, so that they work where nothing else does', async () => {
    const paths = ['/tmp', '/tmp/made'];
    const reads = () =>
      Promise.all([
        ask('/files?path=/proc/version'),
        ...['Stat', 'ListDir'].map((name) => call(`filesystem.Filesystem/${name}`, { path: paths[0] })),
      ]);
    called = [];
    expect((await reads()).map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(called.filter((method) => method === 'reader')).toHaveLength(6);
    called = [];
    await call('filesystem.Filesystem/MakeDir', { path: paths[1] });
    await call('filesystem.Filesystem/Remove', { path: paths[1] });
    expect(called).toContain('guest');
    expect(called).not.toContain('reader');
  });

  it('of a sandbox that is paused or ends during the request get the same answer as of a missing one', async () => {
    const body = { sandboxId: sandbox.sandboxId, message: 'The sandbox was not found', code: 502 };
    for (const code of ['not_ready', 'gone', 'not_found'] as const) {
      onGuest = () => {
        throw new SandboxError(code, 'meanwhile');
      };
      const [file, rpc] = [await ask('/files?path=/tmp/none'), await call('process.Process/List', {})];
      onGuest = () => undefined;
      expect([file.status, await file.json()]).toEqual([502, body]);
      expect(rpc).toEqual({ status: 502, body });
    }
  });

  it('has E2B’s errors for signatures', async () => {
    const at = async (query: string) => {
      const url = `${world.url}/files?path=empty${query}`;
      const id = { 'e2b-sandbox-id': sandbox.sandboxId, 'e2b-sandbox-port': '49983' };
      const answer = await fetch(url, { headers: id });
      return [answer.status, ((await answer.json()) as { readonly message: string }).message];
    };
    expect(await at('')).toEqual([401, 'missing signature query parameter']);
    expect(await at('&signature=v1_x')).toEqual([401, 'invalid signature']);
    const url = new URL(await sandbox.downloadUrl('empty', { useSignatureExpiration: -10 }));
    const { searchParams } = url;
    const old = `&signature=${encodeURIComponent(searchParams.get('signature') ?? '')}&signature_expiration=${searchParams.get('signature_expiration')}`;
    expect(await at(old)).toEqual([401, 'signature is already expired']);
    for (const expiration of ['abc', 'Infinity', '1e99', '-1', '9999999999.5', '']) {
      const file = { path: 'empty', operation: 'read', user: '', expiration } as const;
      const signature = encodeURIComponent(fileSignature(file, token));
      const message = 'signature_expiration: expected a whole number of seconds since 1970';
      expect(await at(`&signature=${signature}&signature_expiration=${expiration}`)).toEqual([400, message]);
    }
  });
});

it('allows requests of web pages, as E2B does', async () => {
  const origin = { origin: 'https://page.test', 'access-control-request-method': 'POST' };
  const preflight = await fetch(`${world.url}/process.Process/List`, {
    method: 'OPTIONS',
    headers: { ...origin, 'access-control-request-headers': 'x-access-token' },
  });
  expect([preflight.status, preflight.headers.get('access-control-allow-origin')]).toEqual([204, '*']);
  const answer = await ask('/files?path=empty', { headers: origin });
  expect(answer.headers.get('access-control-allow-origin')).toBe('*');
});

it('logs no error', () => expect(world.errors).toEqual([]));

/** The text of the answer to a call with a stream. */
const nested = (depth: number): unknown => {
  let message: unknown = {};
  for (let level = 0; level < depth; level += 1) message = { inner: message };
  return message;
};

async function stream(name: string, ...messages: readonly unknown[]): Promise<string> {
  const body = Buffer.concat(messages.map(frameOf));
  expect(endFrame().length).toBeGreaterThan(5);
  const answer = await ask(`/${name}`, {
    method: 'POST',
    body: new Uint8Array(body),
    headers: { 'content-type': 'application/connect+json' },
  });
  expect(answer.status).toBe(200);
  return await answer.text();
}
