/** Files, ports and the inference forwarder through the real agent. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, request } from 'node:http';
import { type AddressInfo, createServer as createTcp, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { buffer, text } from 'node:stream/consumers';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { sleep } from '../../src/base/clock.ts';
import type { FileEvent } from '../../src/machine/guest/link.ts';
import { outcome, type RunningAgent, startAgent } from '../support/guest-agent.ts';

let agent: RunningAgent;
beforeAll(async () => {
  agent = await startAgent();
});
afterAll(async () => {
  expect(agent.console()).toBe('');
  await agent[Symbol.asyncDispose]();
});

describe('files', () => {
  let dir = '';
  let count = 0;
  beforeEach(() => {
    count += 1;
    dir = join(agent.dir, `files-${count}`);
    mkdirSync(dir);
  });

  it('write, read: 5 MiB of binary content are unchanged; parent directories are created, the mode is set', async () => {
    const content = randomBytes(5 * 1024 * 1024);
    const path = join(dir, 'a/b/c.bin');
    const entry = await agent.guest.files.write(path, content, { mode: 0o755 });
    expect(entry).toMatchObject({ name: 'c.bin', path, type: 'file', bytes: content.length });
    expect(statSync(path).mode & 0o777).toBe(0o755);
    expect((await agent.guest.files.readAll(path)).equals(content)).toBe(true);
    await expect(agent.guest.files.readAll(path, { bytesMax: 1000 })).rejects.toMatchObject({ code: 'too_large' });
  });

  it('open: part of a file, with its size and time; a file of the kernel, whose size is 0', async () => {
    const path = join(dir, 'part.txt');
    writeFileSync(path, '0123456789');
    const opened = await agent.guest.files.open(path, { offset: 3, bytesMax: 4 });
    expect(await text(opened.content)).toBe('3456');
    expect(opened).toMatchObject({ bytes: 10, modifiedMs: Math.floor(statSync(path).mtimeMs) });
    const after = await agent.guest.files.open(path, { offset: 20 });
    expect(await text(after.content)).toBe('');
    const kernel = await agent.guest.files.open('/proc/self/status');
    expect(kernel.bytes).toBe(0);
    expect(await text(kernel.content)).toContain('Name:');
  });

  it('write: metadata is shown until the next write; too much is refused', async () => {
    const path = join(dir, 'described.txt');
    const metadata = { author: 'me', empty: '' };
    const written = await agent.guest.files.write(path, 'a', { metadata });
    expect(written.metadata).toEqual(metadata);
    expect((await agent.guest.files.list(dir))[0]?.metadata).toEqual(metadata);
    await agent.guest.files.write(path, 'b');
    expect((await agent.guest.files.stat(path)).metadata).toBeUndefined();
    const large = agent.guest.files.write(path, 'c', { metadata: { a: 'x'.repeat(2000) } });
    await expect(large).rejects.toMatchObject({ code: 'invalid_request' });
  });

  it('stat: a symbolic link shows its final target', async () => {
    writeFileSync(join(dir, 'file'), '');
    symlinkSync('file', join(dir, 'one'));
    symlinkSync('one', join(dir, 'two'));
    symlinkSync('missing', join(dir, 'broken'));
    const target = { path: join(dir, 'file'), type: 'file', mode: 0o644 };
    expect(await agent.guest.files.stat(join(dir, 'two'))).toMatchObject({
      type: 'symlink',
      symlinkTarget: 'one',
      target,
    });
    expect((await agent.guest.files.stat(join(dir, 'broken'))).target).toBeNull();
  });

  it('write: a stream that fails leaves the old content and no temporary file', async () => {
    const path = join(dir, 'keep.txt');
    writeFileSync(path, 'old');
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield Buffer.from('new');
      await Promise.resolve();
      throw new Error('source failed');
    }
    await expect(agent.guest.files.write(path, broken())).rejects.toThrow('source failed');
    for (let tries = 0; readdirSync(dir).length > 1 && tries < 100; tries += 1) await sleep(20);
    expect(readdirSync(dir)).toEqual(['keep.txt']);
    expect(readFileSync(path, 'utf8')).toBe('old');
  });

  it('write: replaces atomically, follows a link to its target, accepts empty content', async () => {
    const target = join(dir, 'target');
    writeFileSync(target, 'x');
    symlinkSync(target, join(dir, 'link'));
    await agent.guest.files.write(join(dir, 'link'), '');
    expect(readFileSync(target, 'utf8')).toBe('');
    expect((await agent.guest.files.stat(join(dir, 'link'))).type).toBe('symlink');
  });

  it('write: an early refusal reaches a sender of large content', async () => {
    await expect(agent.guest.files.write(dir, Buffer.alloc(20 * 1024 * 1024))).rejects.toMatchObject({
      code: 'invalid_request',
    });
  });

  it('list: lexical order, depth, links not followed, odd names survive the round trip', async () => {
    mkdirSync(join(dir, 'sub/deep'), { recursive: true });
    writeFileSync(join(dir, 'ü "\n'), '');
    writeFileSync(Buffer.concat([Buffer.from(`${dir}/b`), Buffer.from([0xff])]), 'odd');
    symlinkSync('/', join(dir, 'root'));
    const names = (await agent.guest.files.list(dir)).map((entry) => entry.name);
    expect(names).toEqual(['b\udcff', 'root', 'sub', 'ü "\n']);
    const odd = join(dir, 'b\udcff');
    expect((await agent.guest.files.readAll(odd)).toString()).toBe('odd');
    const deep = await agent.guest.files.list(dir, { depth: 3 });
    expect(deep.map((entry) => entry.path.slice(dir.length + 1))).toContain('sub/deep');
    expect(deep).toHaveLength(5);
  });

  it('list: 5000 entries arrive', async () => {
    for (let index = 0; index < 5000; index += 1) writeFileSync(join(dir, `f${index}`), '');
    expect(await agent.guest.files.list(dir)).toHaveLength(5000);
  });

  it('move, mkdir, remove: with parents, recursive, typed errors', async () => {
    const { files } = agent.guest;
    await files.makeDirectory(join(dir, 'd/e'));
    await expect(files.makeDirectory(join(dir, 'd'))).rejects.toMatchObject({ code: 'already_exists' });
    await files.write(join(dir, 'd/e/f'), 'x');
    await files.move(join(dir, 'd'), join(dir, 'new/place'));
    expect(readFileSync(join(dir, 'new/place/e/f'), 'utf8')).toBe('x');
    await files.remove(join(dir, 'new'));
    expect(readdirSync(dir)).toEqual([]);
    await expect(files.remove(join(dir, 'new'))).rejects.toMatchObject({ code: 'not_found' });
    await expect(files.stat(join(dir, 'new'))).rejects.toMatchObject({ code: 'not_found' });
  });

  it('read: a directory, a device and a FIFO are refused without blocking', async () => {
    const { files, exec } = { files: agent.guest.files, exec: agent.guest.exec.bind(agent.guest) };
    await outcome(await exec({ argv: ['mkfifo', join(dir, 'fifo')] }));
    for (const path of [dir, '/dev/zero', join(dir, 'fifo')]) {
      await expect(files.readAll(path)).rejects.toMatchObject({ code: 'invalid_request' });
    }
  });

  it('read: kernel files of size 0 are read to their end', async () => {
    const status = await agent.guest.files.readAll('/proc/self/status');
    expect(status.toString()).toContain('Name:');
  });

  it('watch: a write is reported of the file itself, never of a temporary one', async () => {
    const events: FileEvent[] = [];
    const watch = await agent.guest.files.watch(dir, {}, (event) => events.push(event));
    const file = join(dir, 'watched.txt');
    for (const content of ['one', 'two']) await agent.guest.files.write(file, Buffer.from(content));
    // An ordinary rename, and a last event.
    renameSync(file, join(dir, 'moved.txt'));
    mkdirSync(join(dir, 'last'));
    const seen = (): string[] => events.map((event) => `${event.type} ${event.name}`);
    for (let tries = 0; !seen().includes('create last') && tries < 250; tries += 1) await sleep(20);
    expect(seen()).toEqual([
      'create watched.txt',
      'write watched.txt',
      'write watched.txt',
      'rename watched.txt',
      'create moved.txt',
      'create last',
    ]);
    watch.stop();
    await watch.ended;
  });

  it('write: through a link, beside the file that it names', async () => {
    mkdirSync(join(dir, 'elsewhere'));
    writeFileSync(join(dir, 'elsewhere/real'), 'old');
    symlinkSync(join(dir, 'elsewhere/real'), join(dir, 'link'));
    const events: FileEvent[] = [];
    const watch = await agent.guest.files.watch(join(dir, 'elsewhere'), {}, (event) => events.push(event));
    await agent.guest.files.write(join(dir, 'link'), Buffer.from('new'));
    for (let tries = 0; events.length === 0 && tries < 250; tries += 1) await sleep(20);
    expect([events, readFileSync(join(dir, 'elsewhere/real'), 'utf8')]).toEqual([
      [{ type: 'write', name: 'real' }],
      'new',
    ]);
    watch.stop();
    await watch.ended;
  });

  it('watch: reports changes, also in directories made later', async () => {
    const events: FileEvent[] = [];
    const watch = await agent.guest.files.watch(dir, { recursive: true }, (event) => {
      events.push(event);
    });
    mkdirSync(join(dir, 'sub'));
    await sleep(300);
    writeFileSync(join(dir, 'sub/f'), 'x');
    const seen = (): string[] => events.map((event) => `${event.type} ${event.name}`);
    for (let tries = 0; !seen().includes('write sub/f') && tries < 100; tries += 1) await sleep(20);
    expect(seen()).toEqual(expect.arrayContaining(['create sub', 'create sub/f', 'write sub/f']));
    watch.stop();
    await watch.ended;
    await expect(agent.guest.files.watch(join(dir, 'none'), {}, () => undefined)).rejects.toMatchObject({
      code: 'not_found',
    });
  });
});

describe('connect', () => {
  let server: Server;
  let port = 0;
  beforeAll(async () => {
    server = createTcp({ allowHalfOpen: true }, (socket) => {
      void buffer(socket).then((all) => socket.end(`got ${all.length}`));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    ({ port } = server.address() as AddressInfo);
  });
  afterAll(() => {
    server.close();
  });

  it('connect: bytes and half-closes pass both ways', async () => {
    const stream = await agent.guest.connect(port);
    stream.end(Buffer.alloc(3_000_000));
    expect(await text(stream)).toBe('got 3000000');
  });

  it('connect: a long answer after our half-close arrives whole, even to a slow reader', async () => {
    const long = createTcp({ allowHalfOpen: true }, (socket) => {
      socket.resume().on('end', () => socket.end(Buffer.alloc(3_000_000)));
    });
    await once(long.listen(0, '127.0.0.1'), 'listening');
    for (let n = 0; n < 3; n += 1) {
      const stream = await agent.guest.connect((long.address() as AddressInfo).port);
      stream.end();
      let length = 0;
      for await (const part of stream as AsyncIterable<Buffer>) {
        length += part.length;
        await sleep(1);
      }
      expect(length).toBe(3_000_000);
    }
    long.close();
  });

  it('connect: a port without a listener is not_found', async () => {
    await expect(agent.guest.connect(1)).rejects.toMatchObject({ code: 'not_found' });
  });
});

describe('inference forwarder', () => {
  let endpoint = '';
  beforeAll(async () => {
    const process = await agent.guest.exec({ argv: ['printenv', 'OPENAI_BASE_URL'] });
    endpoint = (await outcome(process)).stdout.trim();
  });
  const ask = async (path: string, body?: Buffer): Promise<IncomingMessage> => {
    const call = request(`${endpoint}${path}`, { method: 'POST', agent: false });
    call.end(body);
    const [response] = (await once(call, 'response')) as [IncomingMessage];
    return response;
  };

  it('without a bridge: 503 with an explanation in JSON', async () => {
    const response = await ask('/chat');
    expect(response.statusCode).toBe(503);
    expect(JSON.parse(await text(response))).toMatchObject({ error: { type: 'bridge_unreachable' } });
  });

  it('with a bridge: bodies both ways, streamed chunks, cancel and back-pressure', async () => {
    const closed = Promise.withResolvers<void>();
    const bridge = createServer(async (call, answer) => {
      if (call.url === '/v1/echo') {
        answer.end(await buffer(call));
      } else if (call.url === '/v1/stream') {
        answer.write('data: 1\n\n');
        answer.on('close', () => closed.resolve());
      } else {
        for (let index = 0; index < 500; index += 1) answer.write(Buffer.alloc(65_536));
        answer.end();
      }
    });
    bridge.listen(`${agent.channelPath}_1025`);
    await once(bridge, 'listening');
    const body = randomBytes(2_000_000);
    expect((await buffer(await ask('/echo', body))).equals(body)).toBe(true);
    const all = await Promise.all(
      Array.from({ length: 30 }, async (_, index) => text(await ask('/echo', Buffer.from(`${index}`)))),
    );
    expect(all).toEqual(Array.from({ length: 30 }, (_, index) => `${index}`));

    const stream = await ask('/stream');
    expect(String((await once(stream, 'data'))[0])).toBe('data: 1\n\n');
    stream.destroy();
    await closed.promise;

    const slow = await ask('/big');
    await sleep(200);
    expect((await buffer(slow)).length).toBe(500 * 65_536);
    bridge.closeAllConnections();
    await new Promise((resolve) => {
      bridge.close(resolve);
    });
  });

  it('many idle connections: new ones above the limit wait until others end', async () => {
    const held: Socket[] = [];
    const bridge = createTcp((socket) => {
      held.push(socket);
      socket.on('error', () => socket.destroy());
    });
    bridge.listen(`${agent.channelPath}_1025`);
    await once(bridge, 'listening');
    const { connect } = await import('node:net');
    const port = Number(new URL(endpoint).port);
    const clients = Array.from({ length: 80 }, () => connect(port, '127.0.0.1'));
    for (const client of clients) client.on('error', () => client.destroy());
    for (let tries = 0; held.length < 64 && tries < 200; tries += 1) await sleep(20);
    await sleep(200);
    expect(held.length).toBe(64);
    for (const socket of held.slice()) socket.destroy();
    for (let tries = 0; held.length < 80 && tries < 200; tries += 1) await sleep(20);
    expect(held.length).toBe(80);
    for (const socket of [...clients, ...held]) socket.destroy();
    await new Promise((resolve) => {
      bridge.close(resolve);
    });
  });
});
