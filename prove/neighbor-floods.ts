/** The hostile sandbox of the neighbors proof: its continuous floods until it is stopped (I/O). */
import { createSocket } from 'node:dgram';
import { request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { sleep } from '../src/base/clock.ts';
import { ignore } from '../src/base/ignore.ts';
import { encodeQuery } from '../src/egress/net/dns/message.ts';

export interface FloodTargets {
  /** Its inference ports: one, or those of sandboxes that work together. */
  readonly bridgePaths: readonly string[];
  readonly agentPath: string;
  readonly resolver: string;
  readonly name: string;
  /** A web server behind the gateway. */
  readonly webAddress: string;
}

/** Name → a function that runs the flood until the signal, counting by outcome. */
type Flood = (targets: FloodTargets, count: (outcome: string) => void, signal: AbortSignal) => Promise<unknown>;

/** The maximum requests in flight of one sandbox. */
const REQUESTS = 8;
const CONNECTIONS = 400;
const QUERIES_PER_BURST = 200;
const AGENT_CONNECTIONS = 64;
const KEYS = 190_000;
const OBJECTS = 99_000;
const LARGE_BYTES = 20 * 1024 * 1024;
const SMALL_BYTES = 16_000;

export const FLOODS: Readonly<Record<string, Flood>> = {
  /** Bodies that take longest to check, for a model that does not exist. */
  bodies: async ({ bridgePaths }, count, signal) => {
    const bodies = [bodyOfKeys(KEYS), bodyOfObjects(OBJECTS, LARGE_BYTES)];
    await all(bridgePaths.length * REQUESTS, signal, async (index) => {
      const path = bridgePaths[index % bridgePaths.length] ?? '';
      count(await post(path, bodies[index % bodies.length] ?? '', signal));
    });
  },
  /** The same in bodies that are small enough to be checked on the event loop. */
  'small bodies': async ({ bridgePaths: [path = ''] }, count, signal) => {
    const body = bodyOfKeys(SMALL_BYTES / 10);
    await all(4 * REQUESTS, signal, async () => count(await post(path, body, signal)));
  },
  /** Connections that stay open until the other end closes them. */
  connections: async ({ webAddress }, count, signal) => {
    await all(CONNECTIONS, signal, async () => count(await hold(connect(80, webAddress), signal)));
  },
  names: async ({ resolver, name }, count, signal) => {
    const socket = createSocket('udp4');
    socket.on('message', (bytes) => count(`code ${(bytes[3] ?? 0) & 15}`));
    socket.on('error', (error) => ignore(error, 'the resolver does not answer'));
    const query = encodeQuery(7, name, 1);
    while (!signal.aborted) {
      for (let i = 0; i < QUERIES_PER_BURST; i += 1) socket.send(query, 53, resolver);
      count('bursts sent');
      await sleep(1);
    }
    socket.close();
  },
  /** Connections to the port of an agent that is linked: held, with data. */
  agent: async ({ agentPath }, count, signal) => {
    await all(AGENT_CONNECTIONS, signal, async () => {
      const socket = connect({ path: agentPath, allowHalfOpen: true });
      const write = (): void => {
        if (socket.writable) socket.write(Buffer.alloc(4096), () => setImmediate(write));
      };
      socket.once('connect', write);
      count(await hold(socket, signal));
    });
  },
};

/** Runs `each` again and again, `width` at a time. */
async function all(width: number, signal: AbortSignal, each: (index: number) => Promise<void>): Promise<void> {
  const run = async (index: number): Promise<void> => {
    while (!signal.aborted) {
      await each(index);
      // Other work of this process must run, too.
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  await Promise.all(Array.from({ length: width }, (_, index) => run(index)));
}

function post(socketPath: string, body: string, signal: AbortSignal): Promise<string> {
  return new Promise((resolve) => {
    const path = '/v1/chat/completions';
    const asked = request({ socketPath, method: 'POST', path, agent: false, signal });
    asked.once('error', (error) => resolve(signal.aborted ? 'stopped' : error.message));
    asked.once('response', (response) => {
      response.on('error', (error) => ignore(error, 'the answer was cut short'));
      response.resume().once('close', () => resolve(`status ${response.statusCode}`));
    });
    asked.end(body);
  });
}

/** Resolves when the other end has closed it. */
function hold(socket: Socket, signal: AbortSignal): Promise<string> {
  return new Promise((resolve) => {
    let outcome = 'refused';
    const stop = (): void => void socket.destroy();
    signal.addEventListener('abort', stop, { once: true });
    socket.once('connect', () => {
      outcome = 'opened';
    });
    socket.on('data', () => undefined);
    socket.on('error', (error) => ignore(error, 'the host closed it'));
    socket.once('close', () => {
      signal.removeEventListener('abort', stop);
      resolve(outcome);
    });
  });
}

function bodyOfKeys(keys: number): string {
  const members = Array.from({ length: keys }, (_, i) => `"${i}k":1`).join();
  return `{"model":"missing","messages":[{"role":"user","content":{${members}}}]}`;
}

function bodyOfObjects(objects: number, bytes: number): string {
  const text = 'x'.repeat(Math.ceil(bytes / objects));
  const members = Array.from({ length: objects }, () => `{"text":"${text}"}`).join();
  return `{"model":"missing","messages":[{"role":"user","content":[${members}]}]}`;
}
