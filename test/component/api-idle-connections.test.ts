/** Thousands of idle connections: later clients are still served, even by a daemon at its limit. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Sandbox } from 'e2b';
import { afterEach, expect, it } from 'vitest';
import { API_LIMITS } from '../../src/api/rest/limits.ts';
import { createListener, listenAt, portOf } from '../../src/api/rest/listener.ts';
import { KIB, MIB } from '../../src/base/units.ts';
import { openE2bWorld } from '../support/e2b-world.ts';
import { requires } from '../support/requires.ts';

const HOLD = fileURLToPath(new URL('../fixtures/idle-connections/hold.mjs', import.meta.url));
const children: ChildProcess[] = [];
afterEach(release);

async function release(): Promise<void> {
  for (const child of children.splice(0)) {
    child.stdin?.end();
    if (child.exitCode === null) await once(child, 'exit');
  }
}

/** Number of files that a process may open here. */
function filesMax(): number {
  const most = /^Max open files +\d+ +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return most === undefined ? Number.POSITIVE_INFINITY : Number(most);
}

const openFiles = (): number => readdirSync('/proc/self/fd').length;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

function memory(): { rss: number; heapUsed: number } {
  collectGarbage();
  return process.memoryUsage();
}

/** Runs in another process, since this one has as many files of its own. */
async function hold(port: number, count: number, halves: number): Promise<string> {
  const child = spawn(process.execPath, [HOLD, `${port}`, `${count}`, `${halves}`], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  children.push(child);
  const [line] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  return String(line);
}

const IDLE = 10_000;
const HALVES = 500;
/** Two thirds of the files are for connections, and other files are open besides. */
const FILES_MIN = ((IDLE + HALVES + 100) * 3) / 2;
/** Maximum resident memory of the server per connection; measured: 13 KiB. */
const CONNECTION_BYTES_MAX = 40 * KIB;
/** Maximum heap that may remain; all connections had 29 MiB of it. */
const LEFT_BYTES_MAX = 12 * MIB;

const manyFiles = requires('open-files', filesMax() >= FILES_MIN || `at most ${filesMax()} files`);

manyFiles.it(
  '10,000 idle connections and 500 half requests delay no other client, and leave nothing behind',
  async () => {
    await using world = await openE2bWorld();
    const use = async (): Promise<void> => {
      const sandbox = await Sandbox.create('agent', world.client);
      expect(await sandbox.isRunning()).toBe(true);
      expect(await sandbox.kill()).toBe(true);
    };
    const port = Number(new URL(world.url).port);
    await use();
    await hold(port, 100, 10);
    await release();
    const before = { files: openFiles(), ...memory() };

    const held = await hold(port, IDLE, HALVES);
    expect(JSON.parse(held)).toEqual({ answered: IDLE, closed: 0 });
    await use();
    expect(openFiles() - before.files).toBeGreaterThanOrEqual(IDLE);
    const most = (IDLE + HALVES) * CONNECTION_BYTES_MAX;
    expect(memory().rss - before.rss).toBeLessThan(most);

    await release();
    await expect.poll(() => openFiles() - before.files).toBeLessThanOrEqual(0);
    await expect.poll(() => memory().heapUsed - before.heapUsed).toBeLessThan(LEFT_BYTES_MAX);
    await use();
  },
);

it('at the limit, idle connections make room for others', async () => {
  const server = createListener({
    request: (_request, response) => void response.end('ok'),
    upgrade: (_request, client) => void client.destroy(),
    takesUpgrade: () => false,
  });
  server.maxConnections = 50;
  await listenAt(server, { port: 0 });
  const port = portOf(server) ?? 0;
  expect(JSON.parse(await hold(port, 50, 0))).toEqual({ answered: 50, closed: 0 });
  const ask = (): Promise<string> =>
    new Promise((resolve) => {
      let text = '';
      const socket = connect(port, '127.0.0.1', () =>
        socket.write('GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'),
      );
      socket.on('error', () => undefined);
      socket.on('data', (bytes) => {
        text += String(bytes);
      });
      socket.once('close', () => resolve(text));
    });
  // The first request finds the server full; later ones do not.
  let answer = await ask();
  for (let tries = 0; !answer.includes('200 OK') && tries < 20; tries += 1) answer = await ask();
  expect(answer).toContain('200 OK');
  server.close();
  server.closeAllConnections();
});

it('idle connections outlive the pools of clients', () => {
  // E2B's Python client keeps an idle connection for 300 s.
  expect(API_LIMITS.keepAliveMs).toBeGreaterThan(300_000);
  const server = createListener({ request: () => undefined, upgrade: () => undefined, takesUpgrade: () => false });
  expect(server.keepAliveTimeout).toBe(API_LIMITS.keepAliveMs);
  expect(server.requestTimeout).toBe(0);
  expect(server.maxConnections).toBeGreaterThan(100);
  expect(createServer().maxConnections ?? 0).toBe(0);
});
