/**
 * `neurovisor port` on a daemon whose sandboxes are agents of this machine: their loopback is this one's, so a
 * server of the test is "in the guest", and its port is never free here.
 */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { duplexPair } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { connectDaemon, type RemoteControlPlane } from '../../src/api/client/client.ts';
import { daemonSocket, resolveHome } from '../../src/base/home.ts';
import { MIB } from '../../src/base/units.ts';
import { type PortFlags, type PortReport, parsePorts, port } from '../../src/cli/commands/port.ts';
import { FORWARD_LIMITS, type ForwardOptions, forwardPort } from '../../src/cli/library/port-forward.ts';
import { cli as command } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';
import { freePort } from '../support/free-port.ts';
import { testCli } from '../support/test-cli.ts';

let daemon: FakeDaemon;
let control: RemoteControlPlane;
let id: string;
const open: (() => Promise<unknown> | unknown)[] = [];

const remoteOf = (of: FakeDaemon): Promise<RemoteControlPlane> =>
  connectDaemon({ socketPath: daemonSocket(resolveHome(of.env['NEUROVISOR_HOME'] ?? '')) });

beforeAll(async () => {
  daemon = await startFakeDaemon();
  control = await remoteOf(daemon);
});
afterAll(async () => {
  await control[Symbol.asyncDispose]();
  await daemon[Symbol.asyncDispose]();
});
beforeEach(async () => {
  ({ id } = await daemon.control.create({}));
});
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
  const { status } = await daemon.control.get(id);
  if (status !== 'ended') await daemon.control.remove(id);
});

async function guestServer(serve: (socket: Socket) => void, at = 0): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    serve(socket);
  });
  server.listen(at, '127.0.0.1');
  await once(server, 'listening');
  open.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

/** The listening command in this process. */
async function forwarding(words: readonly string[], on = { control, id }, flags: PortFlags = {}) {
  const there = testCli({ json: true });
  const running = port(there.cli, on.control, on.id, words, flags);
  const stop = (): Promise<number> => {
    there.cli.handleSignal('SIGINT');
    return running;
  };
  await Promise.race([there.seen('localPort'), running]);
  const report = JSON.parse(there.stdout()) as PortReport;
  return { ...there, running, stop, report, local: report.ports[0]?.localPort ?? 0 };
}

async function usually(words: readonly string[]) {
  const there = await forwarding(words);
  open.push(() => there.stop());
  return there;
}

const client = (number: number, host = '127.0.0.1'): Socket => connect({ port: number, host, allowHalfOpen: true });

/** Result of a connection: the bytes read up to its end, or the code of its error. */
async function outcome(socket: Socket): Promise<string> {
  return await text(socket).catch((error: NodeJS.ErrnoException) => error.code ?? 'no code');
}

const echo = (socket: Socket): void => void socket.pipe(socket);

describe('port --over nic', () => {
  it('passes bytes and half-closes both ways, and reports refused connections', async () => {
    const made = await control.create({ network: { mode: 'open' } });
    const sent = Buffer.alloc(5 * MIB, 'abcdefg');
    const number = await guestServer(async (socket) => {
      socket.end(`${(await buffer(socket)).length} bytes`);
    });
    const unused = await freePort();
    const on = { control, id: made.id };
    const words = [`${number}`, `${unused}:${await freePort()}`];
    const there = await forwarding(words, on, { over: 'nic' });
    const socket = client(there.local);
    socket.end(sent);
    expect(await text(socket)).toBe(`${sent.length} bytes`);
    const local = there.report.ports[1]?.localPort ?? 0;
    expect(await outcome(client(local))).toBe('ECONNRESET');
    await expect.poll(there.stderr).toContain(`port ${unused} of the sandbox's card`);
    expect(await there.stop()).toBe(0);
    await control.remove(made.id);
  });

  it('rejects a sandbox without a network card', async () => {
    const there = testCli();
    await expect(port(there.cli, control, id, ['3000'], { over: 'nic' })).rejects.toMatchObject({ code: 'usage' });
  });
});

describe('port', () => {
  it('passes bytes and half-closes both ways, and answers after our half-close', async () => {
    const sent = Buffer.alloc(5 * MIB, 'abcdefg');
    const got: Buffer[] = [];
    const number = await guestServer(async (socket) => {
      socket.end(sent);
      got.push(await buffer(socket));
    });
    const counter = await guestServer(async (socket) => {
      socket.end(`${(await buffer(socket)).length} bytes`);
    });
    const { local, report, stop, stderr } = await forwarding([`${number}`, `${counter}`]);
    const port = (guestPort: number) => ({ guestPort, address: '127.0.0.1', localPort: expect.any(Number) });
    expect(report).toEqual({ sandbox: id, ports: [port(number), port(counter)] });
    expect(local).not.toBe(number);
    const socket = client(local);
    expect((await buffer(socket)).equals(sent)).toBe(true);
    socket.end(sent);
    await expect.poll(() => got[0]?.equals(sent)).toBe(true);
    const other = client(report.ports[1]?.localPort ?? 0);
    other.end(sent);
    expect(await text(other)).toBe(`${5 * MIB} bytes`);
    expect(await stop()).toBe(0);
    expect(stderr()).toBe('');
  });

  it('listens on the same or the named port, only on 127.0.0.1', async () => {
    const number = await guestServer((socket) => void socket.end('hi'));
    const [free, named] = [await freePort(), await freePort()];
    const { report } = await usually([`${free}`, `${number}:${named}`, `${number}:0`]);
    expect(report.ports.map(({ localPort }) => localPort)).toEqual([free, named, expect.any(Number)]);
    expect(await outcome(client(named))).toBe('hi');
    expect(await outcome(client(named, '127.0.0.2'))).toBe('ECONNREFUSED');
  });

  it('resets and reports connections above the limit, and accepts again below it', async () => {
    const number = await guestServer(echo);
    const { local, stderr } = await usually([`${number}`]);
    const sockets = Array.from({ length: FORWARD_LIMITS.connectionsMax }, () => client(local));
    const said = sockets.map(async (socket, n) => {
      socket.write(`number ${n}`);
      return String((await once(socket, 'data'))[0]);
    });
    expect(await Promise.all(said)).toEqual(sockets.map((_, n) => `number ${n}`));
    expect(await outcome(client(local))).toBe('ECONNRESET');
    expect(stderr()).toContain(`port ${number}: 64 connections are open`);
    for (const socket of sockets) socket.end();
    await Promise.all(sockets.map((socket) => once(socket.resume(), 'end')));
    await expect
      .poll(async () => {
        const socket = client(local);
        socket.end('again');
        return await outcome(socket);
      })
      .toBe('again');
  });

  it('a stalled reader applies backpressure to the guest', async () => {
    let written = 0;
    const piece = Buffer.alloc(64 * 1024);
    const number = await guestServer((socket) => {
      const flood = (): void => {
        do written += piece.length;
        while (written < 512 * MIB && socket.write(piece));
      };
      socket.on('drain', flood);
      flood();
    });
    const { local } = await usually([`${number}`]);
    const socket = client(local).pause();
    await once(socket, 'connect');
    let before = -1;
    const stands = (): boolean => {
      const isSame = written > 0 && written === before;
      before = written;
      return isSame;
    };
    await expect.poll(stands, { interval: 300 }).toBe(true);
    const held = written;
    expect(held).toBeLessThan(64 * MIB);
    socket.resume();
    await expect.poll(() => written).toBeGreaterThan(held + MIB);
    socket.destroy();
  });

  it('resets and reports connections while nothing listens in the guest', async () => {
    const number = await freePort();
    const { local, stderr } = await usually([`${number}:${await freePort()}`]);
    const twice = [outcome(client(local)), outcome(client(local))];
    expect(await Promise.all(twice)).toEqual(['ECONNRESET', 'ECONNRESET']);
    const line = `nothing listens on port ${number} in the guest`;
    expect(stderr().split(line)).toHaveLength(2);
    await guestServer((socket) => void socket.end('here now'), number);
    expect(await outcome(client(local))).toBe('here now');
  });

  it('a client that disconnects closes its direction in the guest', async () => {
    const ended = Promise.withResolvers<void>();
    const number = await guestServer((socket) => {
      socket.write('x');
      socket.resume().once('end', () => ended.resolve());
    });
    const { local } = await usually([`${number}`]);
    const socket = client(local);
    await once(socket, 'data');
    socket.resetAndDestroy();
    await ended.promise;
  });

  it('pausing ends connections; the next one resumes the sandbox if auto-resume is on', async () => {
    const number = await guestServer(echo);
    const { local, stderr } = await usually([`${number}`]);
    const socket = client(local);
    socket.write('x');
    await once(socket, 'data');
    await daemon.control.pause(id, 'disk');
    await once(socket, 'end');
    socket.destroy();
    const next = client(local);
    next.end('y');
    expect(await outcome(next)).toBe('y');
    expect((await daemon.control.get(id)).status).toBe('running');
    await daemon.control.update(id, { autoResume: false });
    await daemon.control.pause(id, 'disk');
    expect(await outcome(client(local))).toBe('ECONNRESET');
    expect(stderr()).toContain('it is paused');
    await daemon.control.resume(id);
    const last = client(local);
    last.end('z');
    expect(await outcome(last)).toBe('z');
  });
});

describe('a forwarded port', () => {
  /** A forwarded port whose guest is a stream of the test. */
  async function forward(connect: ForwardOptions['connect']) {
    const refused: unknown[] = [];
    const onRefused = (error: unknown): void => void refused.push(error);
    const forwarded = await forwardPort({ guestPort: 80, localPort: null, connect, onRefused });
    open.push(() => forwarded.close());
    return { forwarded, refused };
  }

  it('a failed stream resets the local connection', async () => {
    const [ours, theirs] = duplexPair();
    const { forwarded, refused } = await forward(async () => ours);
    const socket = client(forwarded.localPort);
    theirs.write('part of it');
    await once(socket, 'data');
    ours.destroy(new Error('the connection to the guest ended'));
    expect(await outcome(socket)).toBe('ECONNRESET');
    expect(refused).toEqual([]);
  });

  it('delivers all output of the guest, even if our direction is cut off', async () => {
    const [ours, theirs] = duplexPair();
    const { forwarded } = await forward(async () => ours);
    const socket = client(forwarded.localPort).pause();
    theirs.end('all of it');
    await once(ours, 'end');
    ours.destroy();
    expect(await outcome(socket)).toBe('all of it');
  });

  it('a client that disconnects, and a close, abort pending connections', async () => {
    const signals: AbortSignal[] = [];
    const { forwarded, refused } = await forward((_, signal) => {
      signals.push(signal);
      return new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason));
      });
    });
    const first = client(forwarded.localPort);
    await expect.poll(() => signals.length).toBe(1);
    first.resetAndDestroy();
    await expect.poll(() => signals[0]?.aborted).toBe(true);
    const how = outcome(client(forwarded.localPort));
    await expect.poll(() => signals.length).toBe(2);
    await forwarded.close();
    expect(await how).toBe('ECONNRESET');
    await expect.poll(() => signals[1]?.aborted).toBe(true);
    expect(refused).toEqual([]);
  });
});

describe('the end of port forwarding', () => {
  it('Ctrl-C resets open connections, frees the port and exits with 0', async () => {
    const number = await guestServer(echo);
    const { local, stop } = await forwarding([`${number}`]);
    const socket = client(local);
    socket.write('x');
    await once(socket, 'data');
    const how = outcome(socket);
    expect(await stop()).toBe(0);
    expect(await how).toBe('ECONNRESET');
    expect(await outcome(client(local))).toBe('ECONNREFUSED');
  });

  it('the end of the sandbox exits with its cause and 125', async () => {
    const there = testCli();
    const running = port(there.cli, control, id, [`${await freePort()}`]);
    await there.seen(` of ${id}\n`);
    await daemon.control.remove(id);
    expect(await running).toBe(125);
    expect(there.stderr()).toContain('the sandbox ended before port forwarding did: stopped');
    expect(await outcome(client(Number(/:(\d+) ->/.exec(there.stdout())?.[1])))).toBe('ECONNREFUSED');
  });

  it('the end of the daemon exits with its error', async () => {
    await using other = await startFakeDaemon();
    await using its = await remoteOf(other);
    const { id: one } = await other.control.create({});
    const { running } = await forwarding([`${await freePort()}`], { control: its, id: one });
    const ended = expect(running).rejects.toMatchObject({
      code: expect.stringMatching(/^daemon_(unreachable|lost)$/),
      remedy: expect.stringContaining('neurovisor serve'),
    });
    await other.stop();
    await ended;
  });
});

describe('errors of port', () => {
  it('reports a port in use with a remedy, and closes the others', async () => {
    const taken = await guestServer(echo);
    const first = await freePort();
    const running = port(testCli().cli, control, id, [`1:${first}`, `1:${taken}`]);
    await expect(running).rejects.toMatchObject({
      code: 'port_in_use',
      message: `cannot listen on 127.0.0.1:${taken}`,
      remedy: expect.stringContaining('another local port'),
    });
    expect(await outcome(client(first))).toBe('ECONNREFUSED');
  });

  it.each([['http'], ['0'], ['65536'], ['3000:65536'], ['3000:'], [':3000'], ['127.0.0.1:3000']])(
    'rejects port %s',
    (word) => {
      expect(() => parsePorts([word])).toThrow(expect.objectContaining({ code: 'usage' }));
    },
  );

  it('rejects a repeated local port and too many ports', () => {
    expect(() => parsePorts(['1:8080', '2:8080'])).toThrow('local port 8080 is given twice');
    const many = Array.from({ length: 33 }, (_, n) => `${n + 1}`);
    expect(() => parsePorts(many)).toThrow('too many ports: 33 (at most 32)');
    expect(parsePorts(['1', '1', '2:0'])).toHaveLength(3);
  });

  it('rejects unknown, ended and permanently paused sandboxes', async () => {
    const there = (text: string) => port(testCli().cli, control, text, ['3000']);
    await expect(there('zzz')).rejects.toMatchObject({ code: 'usage' });
    await expect(there('z'.repeat(20))).rejects.toMatchObject({ code: 'not_found' });
    await daemon.control.update(id, { autoResume: false });
    await daemon.control.pause(id, 'disk');
    await expect(there(id)).rejects.toMatchObject({ code: 'not_ready' });
    await daemon.control.remove(id);
    await expect(there(id)).rejects.toMatchObject({ code: 'gone' });
  });

  it('as a process: parses arguments, prints lines, stops at Ctrl-C', async () => {
    const number = await guestServer((socket) => void socket.end('hi'));
    const there = (...args: string[]) => command(['port', ...args], { env: daemon.env });
    const running = there(id.slice(0, 8), `${number}`);
    await running.seen(` -> port ${number} of ${id}\n`);
    running.kill('SIGINT');
    expect(await running.result).toMatchObject({ status: 0, stderr: 'press Ctrl-C to stop\n' });
    const bad = await there(id, 'http').result;
    expect(bad).toMatchObject({ status: 2, stdout: '' });
    expect(bad.stderr).toContain('invalid port "http"');
    expect((await there(id).result).stderr).toContain("missing required argument 'ports'");
  });
});
