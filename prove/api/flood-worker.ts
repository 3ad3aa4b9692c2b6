/** The thread of a flood: sends the requests of one kind without pause, until it is terminated (I/O). */
import { Agent, request } from 'node:http';
import { workerData } from 'node:worker_threads';
import { ignore } from '../../src/base/ignore.ts';
import { MIB } from '../../src/base/units.ts';

export interface FloodPlan {
  readonly url: string;
  readonly kind: FloodKind;
  /** Of the hostile tenant. */
  readonly key: string;
  /** A sandbox of that tenant, and its token of envd; empty if the flood needs none. */
  readonly sandbox: { readonly id: string; readonly token: string };
  /** Requests by status, as a thread counts them; the last place counts those without an answer. */
  readonly counts: Uint32Array;
}

interface Send {
  readonly method: string;
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Buffer;
}

const BODY_BYTES = 8 * MIB - 64;
const MESSAGE_BYTES = 4 * MIB - 128;
const UNKNOWN = 'a'.repeat(20);
const WIDTH = 4;

const repeated = (bytes: number, text: (at: number) => string): string => {
  const parts: string[] = [];
  for (let at = 0, sum = 0; sum < bytes; at += 1) {
    const part = text(at);
    sum += part.length + 1;
    parts.push(part);
  }
  return parts.slice(0, -1).join(',');
};
const pairs = (count: number, value: string): string =>
  Array.from({ length: count }, (_, at) => `"V${at}":${value}`).join(',');

/** Valid ones, wrong ones, and ones beyond a limit: the heaviest of each. */
const bodies = (field: string): readonly string[] => [
  `{"argv":[${Array.from({ length: 65_536 }, (_, at) => `"${at}"`).join(',')}]}`,
  `{"code":"${'\\n'.repeat(BODY_BYTES / 2 - 64)}"}`,
  `{"argv":["a"],"env":{${pairs(4096, '"b"')}}}`,
  `{"${field}":{${pairs(8000, '0')}}}`,
  `{${pairs(8000, '0')}}`,
  `{"${field}":{${repeated(BODY_BYTES, (at) => `"${at}":0`)}}}`,
  `{"${field}":${'['.repeat(BODY_BYTES / 2)}${']'.repeat(BODY_BYTES / 2)}}`,
];

/** The same for envd, whose messages have half the size. */
const messages = (field: string): readonly string[] => [
  `{"process":{"cmd":"true","args":[${Array.from({ length: 65_536 }, (_, at) => `"${at}"`).join(',')}]}}`,
  `{"process":{"cmd":"true","envs":{${pairs(4096, '"b"')}}}}`,
  `{"path":"${'\\n'.repeat(MESSAGE_BYTES / 2 - 64)}"}`,
  `{"process":{"cmd":"true","${field}":{${pairs(8000, '0')}}}}`,
  `{"process":{"${field}":{${repeated(MESSAGE_BYTES, (at) => `"${at}":0`)}}}}`,
  `{"${field}":${'['.repeat(MESSAGE_BYTES / 2)}${']'.repeat(MESSAGE_BYTES / 2)}}`,
];

/** Of the Connect protocol: flags, length, message. */
function frame(message: string): Buffer {
  const header = Buffer.alloc(5);
  header.writeUInt32BE(message.length, 1);
  return Buffer.concat([header, Buffer.from(message)]);
}

/** Floods of a running sandbox of the hostile tenant. */
export const SANDBOX_FLOODS = ['envd with its token', 'events beside webhooks for another type', 'tunnels'] as const;
export const FLOOD_KINDS = [
  'REST',
  'REST without a key',
  'E2B',
  'host names of unknown sandboxes',
  'envd without its token',
  ...SANDBOX_FLOODS,
] as const;
export type FloodKind = (typeof FLOOD_KINDS)[number];

let named = 0;
const unknownHost = (port: number): Record<string, string> => {
  named += 1;
  return { host: `${port}-${named.toString(36).padStart(20, 'a')}.localhost` };
};

const SENDS: Readonly<Record<FloodKind, (plan: FloodPlan) => readonly (() => Send)[]>> = {
  REST: ({ key }) =>
    bodies('env').flatMap((body) => [
      () => ({ method: 'POST', path: `/v1/sandboxes/${UNKNOWN}/exec`, headers: { 'x-api-key': key }, body }),
      () => ({ method: 'POST', path: '/v1/sandboxes', headers: { 'x-api-key': key }, body }),
    ]),
  'REST without a key': () => bodies('env').map((body) => () => ({ method: 'POST', path: '/v1/sandboxes', body })),
  E2B: ({ key }) =>
    [...bodies('envVars'), ...bodies('metadata')].map((body) => () => ({
      method: 'POST',
      path: '/sandboxes',
      headers: { 'x-api-key': key },
      body,
    })),
  'host names of unknown sandboxes': () => [() => ({ method: 'GET', path: '/', headers: unknownHost(3000) })],
  'envd without its token': () =>
    bodies('envs').map((body) => () => ({
      method: 'POST',
      path: '/process.Process/Start',
      headers: { ...unknownHost(49_983), 'x-access-token': UNKNOWN },
      body,
    })),
  'envd with its token': ({ sandbox: { id, token } }) => {
    const headers = { host: `49983-${id}.localhost`, 'x-access-token': token };
    const unary = messages('envs').map((body) => ({ path: '/filesystem.Filesystem/Stat', body }));
    const framed = messages('envs').map((body) => ({ path: '/process.Process/Start', body: frame(body) }));
    return [...unary, ...framed].map((send) => () => ({ method: 'POST', headers, ...send }));
  },
  'events beside webhooks for another type': ({ key, sandbox: { id } }) => [
    () => ({
      method: 'POST',
      path: `/sandboxes/${id}/timeout`,
      headers: { 'x-api-key': key },
      body: '{"timeout":3600}',
    }),
  ],
  tunnels: ({ key, sandbox: { id } }) => [
    () => ({
      method: 'GET',
      path: `/v1/sandboxes/${id}/operations`,
      headers: { 'x-api-key': key, connection: 'upgrade', upgrade: 'neurovisor-guest' },
    }),
  ],
};

function sendOne(url: string, agent: Agent, { method, path, headers, body }: Send): Promise<number> {
  return new Promise((resolve) => {
    const length = body === undefined ? {} : { 'content-type': 'application/json', 'content-length': body.length };
    const asked = request(new URL(path, url), { method, agent, headers: { ...headers, ...length } });
    let status = 0;
    asked.on('upgrade', (answer, socket) => {
      status = answer.statusCode ?? 0;
      // Held until the flood ends: the next ones come beside it.
      socket.on('error', (error) => ignore(error, 'the flood has ended'));
      resolve(status);
    });
    asked.on('response', (answer) => {
      status = answer.statusCode ?? 0;
      answer.resume();
    });
    asked.on('error', (error) => ignore(error, 'a server may refuse a body that it has not read'));
    asked.on('close', () => resolve(status));
    asked.end(body);
  });
}

export async function flood(plan: FloodPlan): Promise<void> {
  const { url, kind, counts } = plan;
  const agent = new Agent({ keepAlive: true });
  const sends = SENDS[kind](plan);
  let next = 0;
  const one = async (): Promise<never> => {
    for (;;) {
      const send = sends[next % sends.length];
      next += 1;
      if (send !== undefined) Atomics.add(counts, await sendOne(url, agent, send()), 1);
    }
  };
  await Promise.all(Array.from({ length: WIDTH }, one));
}

if (workerData !== null) await flood(workerData as FloodPlan);
