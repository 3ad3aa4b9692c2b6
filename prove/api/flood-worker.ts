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
  /** Requests by status, as a thread counts them; the last place counts those without an answer. */
  readonly counts: Uint32Array;
}

interface Send {
  readonly method: string;
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

const BODY_BYTES = 8 * MIB - 64;
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

export const FLOOD_KINDS = ['REST', 'REST without a key', 'E2B', 'host names of unknown sandboxes', 'envd'] as const;
export type FloodKind = (typeof FLOOD_KINDS)[number];

let named = 0;
const unknownHost = (port: number): Record<string, string> => {
  named += 1;
  return { host: `${port}-${named.toString(36).padStart(20, 'a')}.localhost` };
};

const SENDS: Readonly<Record<FloodKind, (key: string) => readonly (() => Send)[]>> = {
  REST: (key) =>
    bodies('env').flatMap((body) => [
      () => ({ method: 'POST', path: `/v1/sandboxes/${UNKNOWN}/exec`, headers: { 'x-api-key': key }, body }),
      () => ({ method: 'POST', path: '/v1/sandboxes', headers: { 'x-api-key': key }, body }),
    ]),
  'REST without a key': () => bodies('env').map((body) => () => ({ method: 'POST', path: '/v1/sandboxes', body })),
  E2B: (key) =>
    [...bodies('envVars'), ...bodies('metadata')].map((body) => () => ({
      method: 'POST',
      path: '/sandboxes',
      headers: { 'x-api-key': key },
      body,
    })),
  'host names of unknown sandboxes': () => [() => ({ method: 'GET', path: '/', headers: unknownHost(3000) })],
  envd: () =>
    bodies('envs').map((body) => () => ({
      method: 'POST',
      path: '/process.Process/Start',
      headers: { ...unknownHost(49_983), 'x-access-token': UNKNOWN },
      body,
    })),
};

function sendOne(url: string, agent: Agent, { method, path, headers, body }: Send): Promise<number> {
  return new Promise((resolve) => {
    const length = body === undefined ? {} : { 'content-type': 'application/json', 'content-length': body.length };
    const asked = request(new URL(path, url), { method, agent, headers: { ...headers, ...length } });
    let status = 0;
    asked.on('response', (answer) => {
      status = answer.statusCode ?? 0;
      answer.resume();
    });
    asked.on('error', (error) => ignore(error, 'a server may refuse a body that it has not read'));
    asked.on('close', () => resolve(status));
    asked.end(body);
  });
}

export async function flood({ url, kind, key, counts }: FloodPlan): Promise<void> {
  const agent = new Agent({ keepAlive: true });
  const sends = SENDS[kind](key);
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
