/** The agent around a save of its VM: settle, the end of all connections, the next hello, attach. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { sleep, systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { type Guest, listenForGuest, type Process } from '../../src/machine/guest/link.ts';
import { outcome, type RunningAgent, startAgent } from '../support/guest-agent.ts';

const IDENTITY = { sandboxId: 'abcdefghij0123456789', hostname: 'nv-test', env: { WHO: 'first' }, limits: {} };
const sh = (script: string): string[] => ['sh', '-c', script];

let agent: RunningAgent;
beforeEach(async () => {
  agent = await startAgent({ identity: IDENTITY });
});
afterEach(async () => {
  const console = agent.console();
  await agent[Symbol.asyncDispose]();
  expect(console).toBe('');
});

/** Simulates an unplug: ends all connections of the guest at once. The agent then says hello again. */
async function unplug(guest: Guest): Promise<Guest> {
  guest.suspend();
  guest.close();
  return await agent.listener.ready();
}

async function output(process: Process): Promise<string> {
  process.stderr.resume();
  return await text(process.stdout);
}

async function until(what: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 300; tries += 1) {
    if (await what()) return;
    await sleep(20);
  }
  throw new Error('the condition did not become true');
}

describe('settle', () => {
  it('programs: continue without their connection, and accept an attach and input', async () => {
    const script = 'read a; echo "got $a"; read b; echo "got $b"; exit 3';
    const first = await agent.guest.exec({ argv: sh(script) });
    await agent.guest.settle();
    const guest = await unplug(agent.guest);
    await expect(first.exit).rejects.toMatchObject({ code: 'suspended', remedy: expect.stringContaining('attach') });
    expect(await guest.processes()).toMatchObject([{ pid: first.pid, detached: true }]);
    const again = await guest.attach(first.pid);
    again.stdin.end('one\ntwo\n');
    expect(await outcome(again)).toMatchObject({
      stdout: 'got one\ngot two\n',
      exit: { exitCode: 3, truncated: false },
    });
  });

  it('programs started before the next hello continue, too; later ones end with their clients', async () => {
    await agent.guest.settle();
    const during = await agent.guest.exec({ argv: ['sleep', '1000'] });
    const guest = await unplug(agent.guest);
    const abort = new AbortController();
    const after = await guest.exec({ argv: ['sleep', '1000'] }, abort.signal);
    abort.abort();
    await until(async () => (await guest.processes()).length === 1);
    expect(await guest.processes()).toMatchObject([{ pid: during.pid }]);
    expect(await guest.signal(after.pid, 'SIGKILL')).toBe(false);
    await guest.signal(during.pid, 'SIGKILL');
  });

  it('scripts of the fork server continue, too', async () => {
    const code = 'import time\nprint("up", flush=True)\ntime.sleep(0.5)\nprint("still")';
    const script = await agent.guest.python({ script: { code } });
    await once(script.stdout, 'data');
    await agent.guest.settle();
    const guest = await unplug(agent.guest);
    expect(await output(await guest.attach(script.pid))).toBe('still\n');
  });

  it('output: a reader that keeps up loses none between settle and attach', async () => {
    const script = 'i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo $i; done; sleep 0.5';
    const process = await agent.guest.exec({ argv: sh(script) });
    let before = '';
    process.stdout.on('data', (data) => {
      before += String(data);
    });
    await until(() => before !== '');
    await agent.guest.settle();
    const guest = await unplug(agent.guest);
    const after = await output(await guest.attach(process.pid));
    const all = Array.from({ length: 4000 }, (_, index) => `${index + 1}\n`).join('');
    expect(before + after).toBe(all);
  });

  it('output without a connection: the newest 64 KiB of each stream are kept, and truncated is set', async () => {
    const line = 'x'.repeat(99);
    const dir = mkdtempSync(join(tmpdir(), 'nv-settle-'));
    onTestFinished(() => rmSync(dir, { recursive: true }));
    // The program begins once the connection is gone, and reports when it has written everything.
    const [begin, written] = [join(dir, 'begin'), join(dir, 'written')];
    const wait = `until [ -e ${begin} ]; do sleep 0.05; done`;
    const write = `yes ${line} | head -n 3000; echo end; echo oops >&2`;
    const argv = sh(`${wait}; ${write}; : > ${written}; read b`);
    const process = await agent.guest.exec({ argv });
    await agent.guest.settle();
    const guest = await unplug(agent.guest);
    writeFileSync(begin, '');
    await until(() => existsSync(written));
    // The agent reads the rest of the pipe in the next turn of its loop.
    await sleep(500);
    const again = await guest.attach(process.pid);
    again.stdin.end('done\n');
    const { stdout, stderr, exit } = await outcome(again);
    expect(stdout.length).toBe(64 * 1024);
    expect(stdout.endsWith(`${line}\nend\n`)).toBe(true);
    expect(stderr).toBe('oops\n');
    expect(exit).toMatchObject({ exitCode: 0, truncated: true });
  });

  it('exit without a connection: the first attach gets it, with the last output', async () => {
    const process = await agent.guest.exec({ argv: sh('sleep 0.3; echo last; exit 5') });
    await agent.guest.settle();
    const guest = await unplug(agent.guest);
    await until(async () => (await guest.processes()).length === 0);
    expect(await outcome(await guest.attach(process.pid))).toMatchObject({
      stdout: 'last\n',
      exit: { exitCode: 5, signal: null },
    });
    await expect(guest.attach(process.pid)).rejects.toMatchObject({ code: 'not_found' });
  });

  it('detached from the start, without a connection: nothing is kept', async () => {
    const abort = new AbortController();
    const script = 'echo early; read a; echo late';
    const argv = sh(script);
    const process = await agent.guest.exec({ argv, detached: true }, abort.signal);
    await once(process.stdout, 'data');
    abort.abort();
    await until(async () => (await agent.guest.processes()).length === 1);
    await agent.guest.settle();
    const guest = await unplug(agent.guest);
    const again = await guest.attach(process.pid);
    again.stdin.end('go\n');
    expect(await output(again)).toBe('late\n');
  });

  it('no unplug follows: output flows again, and the exit arrives', async () => {
    const process = await agent.guest.exec({ argv: sh('sleep 0.2; echo on; exit 1') });
    await agent.guest.settle();
    expect(await outcome(process)).toMatchObject({ stdout: 'on\n', exit: { exitCode: 1 } });
  });

  it('no unplug follows for long: output of programs started then is not held back', async () => {
    await agent.guest.settle();
    const early = await agent.guest.exec({ argv: ['cat'] });
    early.stdin.write('held at first\n');
    expect(String(await once(early.stdout, 'data'))).toBe('held at first\n');
    const { stdout } = await outcome(await agent.guest.exec({ argv: ['echo', 'at once'] }));
    expect(stdout).toBe('at once\n');
    early.stdin.end();
    expect((await early.exit).exitCode).toBe(0);
  });

  it('dropCaches: has no effect outside a VM', async () => {
    await agent.guest.settle({ dropCaches: true });
    await agent.guest.settle({ dropCaches: false });
    await expect(agent.guest.settle({ dropCaches: 'yes' as unknown as boolean })).rejects.toMatchObject({
      code: 'invalid_request',
    });
  });

  it('twenty saves of one program: each attach continues where the last ended', async () => {
    const process = await agent.guest.exec({ argv: ['cat'] });
    let { guest } = agent;
    for (let round = 0; round < 20; round += 1) {
      await guest.settle();
      guest = await unplug(guest);
      const again = await guest.attach(process.pid);
      again.stdin.write(`round ${round}\n`);
      const [line] = await once(again.stdout, 'data');
      expect(String(line)).toBe(`round ${round}\n`);
    }
    await guest.signal(process.pid, 'SIGKILL');
  });
});

describe('a host that is lost', () => {
  it('attach at the offset of the last byte: none is lost or doubled, and a gap is visible', async () => {
    const script = 'i=0; while [ $i -lt 8000 ]; do i=$((i+1)); echo $i; done; read a; yes | head -c 100000; exit 3';
    const process = await agent.guest.exec({ argv: sh(script) });
    let got = String((await once(process.stdout, 'data'))[0]);
    const guest = await unplug(agent.guest);
    await expect(process.exit).rejects.toMatchObject({ code: 'suspended' });
    const again = await guest.attach(process.pid, { from: { stdout: got.length, stderr: 0 } });
    expect(again.from).toEqual({ stdout: got.length, stderr: 0 });
    again.stdout.on('data', (data) => {
      got += String(data);
    });
    const all = Array.from({ length: 8000 }, (_, index) => `${index + 1}\n`).join('');
    await until(() => got.length === all.length);
    expect(got).toBe(all);
    again.stdin.end('go\n');
    expect((await again.exit).exitCode).toBe(3);
    const logs = await guest.logs(process.pid, { stdout: all.length, stderr: 0 });
    expect(logs.from?.stdout).toBe(all.length + 100_000 - 64 * 1024);
    expect(await text(logs.stdout)).toBe('y\n'.repeat(32 * 1024));
    expect((await logs.exit).exitCode).toBe(3);
    expect(await guest.endedProcesses()).toMatchObject([{ pid: process.pid, exit: { exitCode: 3 } }]);
  });
});

describe('suspend', () => {
  it('operations: those that end and those started afterwards fail with suspended', async () => {
    const { guest } = agent;
    const process = await guest.exec({ argv: ['sleep', '1000'] });
    guest.suspend();
    await expect(guest.stats()).rejects.toMatchObject({ code: 'suspended' });
    expect((await Promise.race([guest.closed, sleep(50)])) ?? 'open').toBe('open');
    agent.child.kill('SIGKILL');
    await expect(process.exit).rejects.toMatchObject({ code: 'suspended' });
    expect(await guest.closed).toMatchObject({ reason: 'suspended' });
  });
});

describe('connect', () => {
  it('connection lost after the guest closed its direction: a writer gets an error', async () => {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => undefined).end('bye');
    });
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const { port } = server.address() as AddressInfo;
    const stream = await agent.guest.connect(port);
    expect(await text(stream)).toBe('bye');
    const lost = once(stream, 'error');
    await unplug(agent.guest);
    expect(await lost).toMatchObject([{ code: 'suspended' }]);
    server.close();
  });
});

describe('files.write', () => {
  it('a stalled source: the call fails with suspended, and the old file stays', async () => {
    const path = `${agent.dir}/file`;
    await agent.guest.files.write(path, 'old');
    async function* source(): AsyncGenerator<Buffer> {
      yield Buffer.from('new');
      await new Promise(() => undefined);
    }
    const writing = agent.guest.files.write(path, source());
    writing.catch(() => undefined);
    await until(() => readdirSync(agent.dir).some((name) => name.endsWith('.part')));
    const guest = await unplug(agent.guest);
    await expect(writing).rejects.toMatchObject({ code: 'suspended' });
    expect((await guest.files.readAll(path)).toString()).toBe('old');
    await until(() => readdirSync(agent.dir).every((name) => !name.endsWith('.part')));
  });
});

describe('second hello', () => {
  it('identity: environment and limits are the new ones, programs keep running', async () => {
    const old = await agent.guest.exec({ argv: sh('read a; echo $WHO') });
    await agent.guest.settle();
    agent.listener.setIdentity({
      sandboxId: 'zyxwvutsrq9876543210',
      hostname: 'nv-fork',
      env: { WHO: 'second' },
      limits: { outputBytesMax: 10 },
    });
    const guest = await unplug(agent.guest);
    const { stdout, exit } = await outcome(await guest.exec({ argv: sh('echo $WHO; echo more than ten bytes') }));
    expect([stdout, exit.truncated]).toEqual(['second\nmor', true]);
    const again = await guest.attach(old.pid);
    again.stdin.end('go\n');
    expect(await output(again)).toBe('first\n');
  });

  it('fork server: the same warm list keeps it', async () => {
    const parent = async (guest: Guest): Promise<string> => {
      const code = 'import os; print(os.getppid())';
      return await output(await guest.python({ script: { code } }));
    };
    const before = await parent(agent.guest);
    await agent.guest.settle();
    expect(await parent(await unplug(agent.guest))).toBe(before);
  });
});

describe('unplug, all connections end at once', () => {
  const descriptors = (): number => readdirSync(`/proc/${agent.child.pid}/fd`).length;

  it('operations interrupted in request, answer or content: nothing is left behind', async () => {
    const { guest } = agent;
    await guest.stats();
    await sleep(1500);
    const before = descriptors();
    const half = connect(agent.channelPath);
    half.write('CONNECT 5000\n{"v":1,"op":"exec","ar');
    const body = connect(agent.channelPath);
    body.write(`CONNECT 5000\n{"v":1,"op":"write","path":"${agent.dir}/f"}\n`);
    body.write(Buffer.concat([Buffer.from([5, 0, 0, 0, 9]), Buffer.from('half')]));
    const flood = await guest.exec({ argv: ['yes'] });
    await once(flood.stdout, 'readable');
    const watch = await guest.files.watch(agent.dir, {}, () => undefined);
    await until(() => readdirSync(agent.dir).some((name) => name.endsWith('.part')));
    half.destroy();
    body.destroy();
    const next = await unplug(guest);
    await watch.ended;
    expect(await next.processes()).toMatchObject([{ pid: flood.pid }]);
    await next.signal(flood.pid, 'SIGKILL');
    await until(async () => (await next.processes()).length === 0);
    await until(() => descriptors() === before);
    expect(readdirSync(agent.dir).filter((name) => name.includes('f.'))).toEqual([]);
  });
});

describe('unplug, the forwarder', () => {
  let bridge: Server;
  const dialled: Socket[] = [];
  let port: number;
  const serveHalf = (): Server =>
    createServer((socket) => {
      socket.on('error', () => socket.destroy());
      dialled.push(socket);
      socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf'));
    }).listen(`${agent.channelPath}_1025`);
  beforeEach(async () => {
    bridge = serveHalf();
    await once(bridge, 'listening');
    const env = await outcome(await agent.guest.exec({ argv: sh('echo $OPENAI_BASE_URL') }));
    port = Number(new URL(env.stdout.trim()).port);
  });
  afterEach(() => {
    bridge.close();
    for (const socket of dialled.splice(0)) socket.destroy();
  });

  it.each<[string, boolean]>([
    ['ended', false],
    ['reset', true],
  ])('a client in the middle of an answer: its connection is ended at once (%s)', async (_n, reset) => {
    const client = connect(port, '127.0.0.1');
    client.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
    await once(client, 'data');
    const idle = connect(port, '127.0.0.1');
    await until(() => dialled.length === 2);
    for (const socket of dialled) {
      // Closing a unix socket with unread bytes resets it.
      if (reset) socket.pause();
    }
    if (reset) client.write(Buffer.alloc(200_000));
    await sleep(50);
    for (const socket of dialled) socket.destroy();
    const ends = [client, idle].map(async (socket) => {
      socket.resume();
      await Promise.race([once(socket, 'end'), once(socket, 'error')]);
      socket.destroy();
    });
    await Promise.all(ends);
    await agent.guest.stats();
  });

  it('reset: the agent releases the connection, even if the client does not close it', async () => {
    const descriptors = (): number => readdirSync(`/proc/${agent.child.pid}/fd`).length;
    await sleep(1500);
    const before = descriptors();
    const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    client.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
    await once(client, 'data');
    for (const socket of dialled) socket.pause();
    client.write(Buffer.alloc(200_000));
    await until(() => descriptors() === before + 2);
    await sleep(50);
    for (const socket of dialled) socket.destroy();
    await until(() => descriptors() === before);
    client.destroy();
  });

  it('a new client waits for the host, and is served', async () => {
    bridge.close();
    agent.guest.close();
    await agent.listener.close();
    const client = connect(port, '127.0.0.1');
    client.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
    // Longer than it waits with the host linked and no bridge.
    await sleep(1000);
    expect(client.readableLength).toBe(0);
    const listener = await listenForGuest({
      channelPath: agent.channelPath,
      helloTimeoutMs: 20_000,
      clock: systemClock,
      identity: IDENTITY,
      entropy: () => randomBytes(64),
      log: silentLog,
    });
    const guest = await listener.ready();
    bridge = serveHalf();
    const [answer] = await once(client, 'data');
    expect(String(answer)).toContain('200 OK');
    client.destroy();
    guest.close();
    await listener.close();
  });

  it('a new client without a bridge gets 503 after a moment', async () => {
    bridge.close();
    const client = connect(port, '127.0.0.1');
    expect(await text(client)).toContain('bridge_unreachable');
  });
});
