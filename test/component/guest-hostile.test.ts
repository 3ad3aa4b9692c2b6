/** Bad input in both directions: the agent with a bad host, and the host with a bad guest. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Clock, FakeClock, sleep, systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { GUEST_LIMITS } from '../../src/machine/guest/limits.ts';
import { type GuestListener, listenForGuest } from '../../src/machine/guest/link.ts';
import { outcome, type RunningAgent, spawnAgent, startAgent } from '../support/guest-agent.ts';

const HELLO = {
  type: 'hello',
  protocol: 1,
  agent: '0.1.0',
  python: '3.11.2',
  timings: { kernelToInitMs: null, initToAgentMs: null, agentToHelloMs: 1 },
  overlay: 'none',
  cgroup: false,
};

describe('agent, against a bad host', () => {
  let agent: RunningAgent;
  beforeAll(async () => {
    agent = await startAgent();
  });
  afterAll(async () => {
    expect(agent.console()).toBe('');
    await agent[Symbol.asyncDispose]();
  });
  const raw = async (bytes: string | Buffer, port = 5000): Promise<string> => {
    const socket = connect(agent.channelPath);
    socket.write(`CONNECT ${port}\n`);
    socket.write(bytes);
    return await text(socket).catch(() => 'reset');
  };

  it.each<[string, string | Buffer]>([
    ['no JSON', 'hello\n'],
    ['not an object', '[1]\n'],
    ['no version', '{"op":"stats"}\n'],
    ['another version', '{"v":2,"op":"stats"}\n'],
    ['no operation', '{"v":1}\n'],
    ['an unknown operation', '{"v":1,"op":"fly"}\n'],
    ['a wrong type', '{"v":1,"op":"exec","argv":"ls"}\n'],
    ['a NUL in an argument', '{"v":1,"op":"exec","argv":["a\\u0000b"]}\n'],
    ['a bad environment', '{"v":1,"op":"exec","argv":["ls"],"env":{"A=B":"x"}}\n'],
    ['a bad size', '{"v":1,"op":"exec","argv":["ls"],"pty":{"cols":0,"rows":1}}\n'],
    ['a path as a script name', '{"v":1,"op":"python","name":"../x.py"}\n'],
    ['too large a body', '{"v":1,"op":"python","bodyBytes":99999999}\n'],
    ['another frame than the body', Buffer.from('{"v":1,"op":"python","bodyBytes":3}\n\x01\0\0\0\x03abc')],
    ['a body longer than announced', Buffer.from('{"v":1,"op":"python","bodyBytes":3}\n\x05\0\0\0\x04abcd')],
    ['an endless line', 'x'.repeat(70_000)],
    ['deep nesting', `{"v":1,"op":${'['.repeat(30_000)}\n`],
    ['bad UTF-8', Buffer.from([0x22, 0xff, 0x22, 0x0a])],
  ])('request: %s is answered with a reason', async (_name, bytes) => {
    const [, reply] = (await raw(bytes)).split('\n');
    expect(JSON.parse(reply ?? '')).toMatchObject({ ok: false, code: expect.any(String) });
  });

  it('channel: another port or greeting gets no OK', async () => {
    expect(['', 'reset']).toContain(await raw('{"v":1,"op":"stats"}\n', 5001));
    const socket = connect(agent.channelPath);
    socket.write('GET / HTTP/1.1\r\n\r\n');
    expect(['', 'reset']).toContain(await text(socket).catch(() => 'reset'));
  });

  it('request: cut into single bytes, it is the same request', async () => {
    const socket = connect(agent.channelPath);
    for (const byte of 'CONNECT 5000\n{"v":1,"op":"processes"}\n') {
      socket.write(byte);
      await sleep(1);
    }
    expect((await text(socket)).split('\n')[1]).toBe('{"ok":true,"processes":[],"ended":[]}');
  });

  it('stdin: a frame of another kind ends the connection and the program', async () => {
    const socket = connect(agent.channelPath);
    socket.write('CONNECT 5000\n{"v":1,"op":"exec","argv":["cat"]}\n');
    socket.write(Buffer.from([9, 0, 0, 0, 1, 0]));
    await text(socket).catch(() => 'reset');
    for (let tries = 0; tries < 100; tries += 1) {
      if ((await agent.guest.processes()).length === 0) return;
      await sleep(20);
    }
    expect(await agent.guest.processes()).toEqual([]);
  });

  it('operations: 128 are served, more are refused as exhausted, and the agent recovers', async () => {
    const waiting = Array.from({ length: 128 }, () => {
      const socket = connect(agent.channelPath);
      socket.on('error', () => socket.destroy());
      socket.write('CONNECT 5000\n');
      return socket;
    });
    await Promise.all(waiting.map((socket) => once(socket, 'data')));
    await expect(agent.guest.stats()).rejects.toMatchObject({ code: 'exhausted' });
    for (const socket of waiting) socket.destroy();
    await sleep(200);
    expect((await agent.guest.stats()).cpuCount).toBeGreaterThan(0);
  });

  it('programs: one that floods its streams and one that ignores input do not block others', async () => {
    const flood = await agent.guest.exec({ argv: ['sh', '-c', 'yes & yes >&2'] });
    const deaf = await agent.guest.exec({ argv: ['sleep', '100'] });
    deaf.stdin.write(Buffer.alloc(4 * 1024 * 1024));
    const { stdout } = await outcome(await agent.guest.exec({ argv: ['echo', 'served'] }));
    expect(stdout).toBe('served\n');
    flood.kill();
    deaf.kill();
    flood.stdout.resume();
    flood.stderr.resume();
    deaf.stdout.resume();
    deaf.stderr.resume();
    expect((await flood.exit).signal).toBe('SIGKILL');
    expect((await deaf.exit).signal).toBe('SIGKILL');
  });
});

describe('listenForGuest, against a bad guest', () => {
  let dir = '';
  let channelPath = '';
  let listener: GuestListener;
  const listen = (helloTimeoutMs: number, clock: Clock = systemClock): Promise<GuestListener> =>
    listenForGuest({
      channelPath,
      identity: { sandboxId: 'abcdefghij0123456789', hostname: 'h', env: {}, limits: {} },
      helloTimeoutMs,
      clock,
      entropy: () => new Uint8Array(64),
      log: silentLog,
    });
  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'nv-link-'));
    channelPath = join(dir, 'ch');
    listener = await listen(20_000);
  });
  afterEach(async () => {
    await listener.close();
    rmSync(dir, { recursive: true });
  });
  const dial = async (): Promise<Socket> => {
    const socket = connect(`${channelPath}_1024`);
    socket.on('error', () => socket.destroy());
    await once(socket, 'connect');
    return socket;
  };
  const say = (socket: Socket, value: unknown): void => {
    socket.write(`${JSON.stringify(value)}\n`);
  };
  const linked = async (): Promise<Socket> => {
    const socket = await dial();
    say(socket, HELLO);
    await once(socket, 'data');
    say(socket, { type: 'ready', problems: [] });
    return socket;
  };

  it('no hello: hello_timeout', async () => {
    await listener.close();
    listener = await listen(50);
    await dial();
    await expect(listener.ready()).rejects.toMatchObject({ code: 'hello_timeout' });
  });

  it('garbage: protocol_error, and the connection ends', async () => {
    const socket = await dial();
    socket.write(Buffer.alloc(100_000, 0x78));
    await expect(listener.ready()).rejects.toMatchObject({ code: 'protocol_error' });
    socket.resume();
    await once(socket, 'close');
  });

  it('another version: hello_refused, at both ends', async () => {
    const socket = await dial();
    say(socket, { ...HELLO, protocol: 9 });
    expect(JSON.parse(await text(socket))).toMatchObject({ code: 'protocol_version' });
    await expect(listener.ready()).rejects.toMatchObject({
      code: 'hello_refused',
      remedy: expect.stringContaining('setup'),
    });
  });

  it('second agent: refused as busy while the first is linked', async () => {
    await linked();
    await listener.ready();
    expect(JSON.parse(await text(await dial()))).toMatchObject({ type: 'refused', code: 'busy' });
  });

  it('a connection flood beside the linked agent: at most `busyConnectionsMax` get an answer, each is read within limits', async () => {
    await listener.close();
    const clock = new FakeClock();
    listener = await listen(100_000, clock);
    await linked();
    await listener.ready();
    const flood = await Promise.all(
      Array.from({ length: 30 }, async () => {
        const socket = await dial();
        const state = { hasEnd: false, said: '' };
        // Keeps its own end open, as a hostile guest would.
        socket.allowHalfOpen = true;
        socket.on('data', (bytes) => {
          state.said += bytes.toString();
        });
        socket.on('end', () => {
          state.hasEnd = true;
        });
        return { socket, state };
      }),
    );
    await expect.poll(() => flood.every(({ state }) => state.hasEnd)).toBe(true);
    const told = flood.filter(({ state }) => state.said.includes('"code":"busy"'));
    expect(told).toHaveLength(GUEST_LIMITS.busyConnectionsMax);
    // A write to a closed end breaks the socket.
    const isRead = ({ socket }: (typeof told)[number], bytes: number): boolean => {
      if (!socket.destroyed) socket.write(Buffer.alloc(bytes));
      return !socket.destroyed;
    };
    const [talker, ...silent] = told;
    if (talker === undefined) throw new Error('no connection got an answer');
    let sent = 0;
    // Without the limit this would never end: stop at a hundred times the limit.
    for (; sent < 100 * GUEST_LIMITS.busyBytesMax && isRead(talker, 16_384); sent += 16_384) await sleep(1);
    expect(sent).toBeLessThan(100 * GUEST_LIMITS.busyBytesMax);
    expect(silent.every((each) => isRead(each, 1))).toBe(true);
    clock.advance(GUEST_LIMITS.busyMsMax);
    await expect.poll(() => silent.filter((each) => isRead(each, 1)).length).toBe(0);
  });

  it('readyMs: counts from the connection, not from the start of listening', async () => {
    await listener.close();
    const clock = new FakeClock();
    listener = await listen(100_000, clock);
    clock.advance(76_000);
    await linked();
    expect((await listener.ready()).info).toMatchObject({ readyMs: 0, helloMs: 0 });
  });

  it('cancel: ready rejects at once, and can be called again', async () => {
    const abort = new AbortController();
    const ready = listener.ready(abort.signal);
    abort.abort();
    await expect(ready).rejects.toMatchObject({ code: 'cancelled' });
    await linked();
    expect((await listener.ready()).info.agentVersion).toBe('0.1.0');
  });

  it('lost guest: closed resolves, and the next hello makes the next guest', async () => {
    const socket = await linked();
    const first = await listener.ready();
    socket.destroy();
    expect(await first.closed).toMatchObject({ reason: 'lost' });
    await expect(first.exec({ argv: ['ls'] })).rejects.toMatchObject({ code: 'connection_lost' });
    await linked();
    expect(await listener.ready()).not.toBe(first);
  });

  it('events: a flood is read at a bounded rate, garbage ends the guest', async () => {
    const socket = await linked();
    const guest = await listener.ready();
    let seen = 0;
    guest.events(() => {
      seen += 1;
    });
    const flood = `${JSON.stringify({ type: 'dropped', count: 1 })}\n`.repeat(1000);
    let stopped = false;
    for (let index = 0; index < 200 && !stopped; index += 1) stopped = !socket.write(flood);
    await sleep(300);
    // One chunk of 64 KiB above the limit may be parsed before the reader stops.
    expect(seen).toBeGreaterThan(0);
    expect(seen).toBeLessThan(5000);
    socket.destroy();
    await guest.closed;
    const other = await linked();
    const next = await listener.ready();
    other.write('garbage\n');
    expect(await next.closed).toMatchObject({ reason: 'protocol_error' });
  });

  it.each<[string, string]>([
    ['nothing and closes', ''],
    ['no OK', 'hello\n'],
    ['OK and closes', 'OK 1\n'],
    ['a reply that lacks its fields', 'OK 1\n{"ok":true}\n'],
    ['a negative pid', 'OK 1\n{"ok":true,"pid":-5,"warm":false}\n'],
    ['frames of an unknown kind', 'OK 1\n{"ok":true,"pid":5,"warm":false}\n\x09\0\0\0\x01a'],
    ['a huge frame', 'OK 1\n{"ok":true,"pid":5,"warm":false}\n\x02\x7f\0\0\0'],
    ['an end that lies', 'OK 1\n{"ok":true,"pid":5,"warm":false}\n\x04\0\0\0\x0f{"exitCode":-1}'],
    ['no end', 'OK 1\n{"ok":true,"pid":5,"warm":false}\n\x02\0\0\0\x01a'],
  ])('operation: a guest that answers %s is a typed error', async (_name, answer) => {
    await linked();
    const guest = await listener.ready();
    const server = createServer((socket) => {
      socket.on('error', () => socket.destroy());
      socket.end(Buffer.from(answer, 'latin1'));
    });
    server.listen(channelPath);
    await once(server, 'listening');
    const run = async (): Promise<unknown> => {
      const process = await guest.exec({ argv: ['x'] });
      process.stdout.resume();
      process.stderr.resume();
      return await process.exit;
    };
    await expect(run()).rejects.toMatchObject({ code: expect.stringMatching(/^(connection_lost|protocol_error)$/) });
    await expect(guest.files.readAll('x')).rejects.toMatchObject({
      code: expect.stringMatching(/^(connection_lost|protocol_error)$/),
    });
    server.close();
  });
});

describe('agent, refused by its host', () => {
  it('version: the agent refuses a welcome of another version with a reason, and dials again', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nv-link-'));
    const channelPath = join(dir, 'ch');
    const lines: string[] = [];
    const answered = Promise.withResolvers<void>();
    const server = createServer((socket) => {
      socket.on('data', (data) => {
        lines.push(...String(data).trim().split('\n'));
        if (lines.length === 1) socket.write('{"type":"welcome","protocol":7}\n');
        if (lines.length > 2) answered.resolve();
      });
    });
    server.listen(`${channelPath}_1024`);
    await once(server, 'listening');
    const child = spawnAgent(channelPath, dir);
    await answered.promise;
    expect(JSON.parse(lines[1] ?? '')).toMatchObject({
      type: 'refused',
      code: 'protocol_version',
      message: expect.stringContaining('7'),
    });
    expect(JSON.parse(lines[2] ?? '')).toMatchObject({ type: 'hello' });
    child.kill('SIGKILL');
    await once(child, 'exit');
    server.close();
    rmSync(dir, { recursive: true });
  });
});
