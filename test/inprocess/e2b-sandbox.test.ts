/** The unmodified JavaScript client of E2B against our server; sandboxes are agents of this machine. */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Sandbox } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';

let world: E2bWorld;
let home: string;
let sandbox: Sandbox;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-e2b-'));
  world = await openE2bWorld({ home });
  sandbox = await Sandbox.create('agent', { ...world.client, metadata: { owner: 'test' }, allowInternetAccess: false });
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  await rm(home, { recursive: true, force: true });
});

describe('sandboxes', () => {
  it('are created, shown and ended', async () => {
    const other = await Sandbox.create('agent', { ...world.client, timeoutMs: 60_000 });
    const info = await other.getInfo();
    expect(info).toMatchObject({ sandboxId: other.sandboxId, templateId: 'agent', state: 'running' });
    expect(info.endAt.getTime() - info.startedAt.getTime()).toBeGreaterThan(59_000);
    expect(await other.isRunning()).toBe(true);
    expect(await other.kill()).toBe(true);
    expect(await Sandbox.kill(other.sandboxId, world.client)).toBe(false);
    expect(await other.isRunning()).toBe(false);
  });

  it('are paused and connected to again', async () => {
    const other = await Sandbox.create('agent', world.client);
    await other.pause();
    expect(await other.isRunning()).toBe(false);
    const again = await Sandbox.connect(other.sandboxId, world.client);
    expect(await again.isRunning()).toBe(true);
    await again.kill();
  });

  it('need the right key', async () => {
    const wrong = { ...world.client, apiKey: `e2b_${'1'.repeat(40)}` };
    await expect(Sandbox.create('agent', wrong)).rejects.toThrow('not valid');
  });
});

describe('commands', () => {
  it('run, with output, environment and status', async () => {
    const done = await sandbox.commands.run('echo "hi $WHO"; echo bad >&2', { envs: { WHO: 'you' } });
    expect(done).toMatchObject({ stdout: 'hi you\n', stderr: 'bad\n', exitCode: 0 });
    await expect(sandbox.commands.run('exit 3')).rejects.toMatchObject({ exitCode: 3 });
  });

  it('run in the background, take input, are listed and killed', async () => {
    const running = await sandbox.commands.run('cat', { background: true, stdin: true });
    const { promise, resolve } = Promise.withResolvers<string>();
    const second = await sandbox.commands.connect(running.pid, { onStdout: resolve });
    await sandbox.commands.sendStdin(running.pid, 'line\n');
    expect(await promise).toBe('line\n');
    const listed = await sandbox.commands.list();
    expect(listed.map(({ pid }) => pid)).toContain(running.pid);
    await second.disconnect();
    expect(await sandbox.commands.kill(running.pid)).toBe(true);
    await expect(running.wait()).rejects.toThrow('signal: killed');
    expect(await sandbox.commands.kill(running.pid)).toBe(false);
  });
});

it('a sandbox that is killed ends its commands with E2B’s words', async () => {
  const other = await Sandbox.create('agent', world.client);
  const running = await other.commands.run('sleep 600', { background: true });
  const failed = running.wait().then(
    () => 'it ended',
    (error: Error) => `${error.name}: ${error.message}`,
  );
  await other.kill();
  expect(await failed).toMatch(/^TimeoutError: .*The sandbox was killed or reached its end of life/);
});

it('a terminal of an unknown size has 80 columns and 24 rows', async () => {
  const { promise, resolve } = Promise.withResolvers<string>();
  let shown = '';
  const terminal = await sandbox.pty.create({
    cols: 0,
    rows: 0,
    onData: (data) => {
      shown += Buffer.from(data).toString();
      if (/\d+ \d+\r?\n/.test(shown)) resolve(shown);
    },
  });
  await sandbox.pty.sendInput(terminal.pid, Buffer.from('stty size\n'));
  expect(await promise).toMatch(/24 80\r?\n/);
  await terminal.kill();
});

describe('files', () => {
  it('are written, read, listed and removed', async () => {
    await sandbox.files.write('notes/a.txt', 'hello');
    expect(await sandbox.files.read('notes/a.txt')).toBe('hello');
    const [entry] = await sandbox.files.list('notes');
    expect(entry).toMatchObject({ name: 'a.txt', type: 'file', size: 5 });
    expect(await sandbox.files.exists('notes/b.txt')).toBe(false);
    await sandbox.files.rename('notes/a.txt', 'notes/b.txt');
    await sandbox.files.remove('notes');
    expect(await sandbox.files.exists('notes')).toBe(false);
  });

  it('have signed URLs', async () => {
    await sandbox.files.write('signed.txt', 'by URL');
    const url = await sandbox.downloadUrl('signed.txt');
    const answer = await fetch(url);
    expect(await answer.text()).toBe('by URL');
    const forged = await fetch(url.replace('signed.txt', 'other.txt'));
    expect([forged.status, await forged.json()]).toEqual([401, { code: 401, message: 'invalid signature' }]);
  });

  it('have signed URLs, with the same errors for a paused sandbox as other requests', async () => {
    const other = await Sandbox.create('agent', world.client);
    const url = await other.downloadUrl('signed.txt');
    await other.pause();
    const answer = await fetch(url);
    expect([answer.status, await answer.json()]).toEqual([
      502,
      { sandboxId: other.sandboxId, message: 'The sandbox was not found', code: 502 },
    ]);
    await other.kill();
  });
});

describe('ports', () => {
  it('answer by headers and by name', async () => {
    const server = createServer((request, response) => response.end(`you asked ${request.url}`));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const ask = async (headers: Record<string, string>): Promise<string> =>
      await (await fetch(`${world.url}/x?y=1`, { headers })).text();
    const id = sandbox.sandboxId;
    expect(await ask({ 'e2b-sandbox-id': id, 'e2b-sandbox-port': String(port) })).toBe('you asked /x?y=1');
    server.close();
    server.closeAllConnections();
    expect(await ask({ 'e2b-sandbox-id': id, 'e2b-sandbox-port': String(port) })).toContain('port is not open');
  });

  it('log no error', () => expect(world.errors).toEqual([]));
});

describe('connections', () => {
  it('get no answer before their message: the Python client would stop sending', async () => {
    const answer = await fetch(`${world.url}/sandboxes/${sandbox.sandboxId}`, {
      headers: { 'x-api-key': world.apiKey },
    });
    const { envdAccessToken } = (await answer.json()) as { readonly envdAccessToken: string };
    const socket = connect(Number(new URL(world.url).port), '127.0.0.1').setEncoding('latin1');
    let text = '';
    socket.on('data', (more: string) => {
      text += more;
    });
    const head = (method: string, path: string, more = ''): string =>
      `${method} ${path} HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: ${sandbox.sandboxId}\r\n` +
      `X-Access-Token: ${envdAccessToken}\r\n${more}\r\n`;
    const chunked = 'Content-Type: application/connect+json\r\nTransfer-Encoding: chunked\r\n';
    socket.write(head('POST', '/process.Process/Start', chunked));
    // Another connection's whole call, which is served after the head above.
    expect(await sandbox.isRunning()).toBe(true);
    expect(text).toBe('');
    const message = JSON.stringify({ process: { cmd: '/bin/echo', args: ['late'] } });
    const length = message.length.toString(16).padStart(8, '0');
    const frame = `\0${Buffer.from(length, 'hex').toString('latin1')}${message}`;
    socket.write(`${frame.length.toString(16)}\r\n${frame}\r\n`, 'latin1');
    await expect.poll(() => text, { timeout: 10_000 }).toContain('exit status 0');
    // The rest of the body, and the next call on the same connection.
    socket.write(`0\r\n\r\n${head('GET', '/health')}`);
    await expect.poll(() => text, { timeout: 10_000 }).toContain('204 No Content');
    socket.destroy();
  });
});
