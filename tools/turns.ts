/**
 * What hostile requests of one tenant take from another, without VMs: REST and E2B's interface on fake sandboxes, of
 * which one tenant has 1,000 paused ones, 50,000 events and 32 webhooks.
 *
 *     node tools/turns.ts [--rounds 30]
 *
 * For each request: its time, `/v1/health` of the other tenant meanwhile, and the longest turn of the event loop.
 */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { EventJournal } from '../src/api/e2b/events/journal.ts';
import { openEvents } from '../src/api/e2b/events/open.ts';
import { createE2bServer } from '../src/api/e2b/server.ts';
import { accessTokens } from '../src/api/e2b/tokens.ts';
import { createApiServer } from '../src/api/rest/server.ts';
import { KeyStore } from '../src/api/tenants/keys.ts';
import { tenantPlane } from '../src/api/tenants/plane.ts';
import { Tenancy } from '../src/api/tenants/tenancy.ts';
import { systemClock } from '../src/base/clock.ts';
import { newSandboxId } from '../src/base/ids.ts';
import { silentLog } from '../src/base/log.ts';
import { LongTurns } from '../src/host/telemetry/long-turns.ts';
import { LoopWatch } from '../src/host/telemetry/loop-watch.ts';
import { FakeHost } from '../test/support/fake-host.ts';
import { FakeTemplateBuilds } from '../test/support/fake-template-builds.ts';

const PAUSED = 1000;
const EVENTS = 50_000;
const WEBHOOKS = 32;
const BODY_BYTES = 8 * 1024 * 1024 - 1024;
const IDLE_MS = 10_000;
/** The watching thread loads its modules. */
const START_MS = 3000;

interface Setup {
  readonly port: number;
  readonly keys: { readonly mine: string; readonly other: string };
  /** A sandbox of `other`. */
  readonly sandbox: string;
  readonly rounds: number;
}

const at = (sorted: readonly number[], part: number): string =>
  (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0).toFixed(1);
const ascending = (times: readonly number[]): number[] => times.toSorted((a, b) => a - b);

if (isMainThread) {
  const dir = await mkdtemp(join(tmpdir(), 'nv-turns-'));
  await serve(dir);
  await rm(dir, { recursive: true });
} else await attack(workerData as Setup);

async function serve(dir: string): Promise<void> {
  const { values } = parseArgs({ options: { rounds: { type: 'string', default: '30' } } });
  await using host = await FakeHost.open({ dataDir: join(dir, 'data') });
  const { control } = host;
  const [mine, other] = [tenantPlane(control, 'mine'), tenantPlane(control, 'other')];
  for (let made = 0; made < PAUSED; made += 1) await mine.pause((await mine.create({ boot: true })).id, 'disk');
  const { id: sandbox } = await other.create({ boot: true });
  const path = join(dir, 'events.db');
  fillEvents(path);
  const keyStore = new KeyStore(dir, systemClock);
  const keys = { mine: keyStore.create('mine', null).key, other: keyStore.create('other', null).key };
  const callers = new Tenancy({ control, keys: keyStore, apiKey: 'key-of-the-operator' });
  const parts = { control, callers, clock: systemClock, log: silentLog };
  const events = await openEvents({ ...parts, path, post: async () => undefined });
  const templates = { builds: new FakeTemplateBuilds(), stateDir: join(dir, 'e2b'), uploadsDir: join(dir, 'uploads') };
  const tokens = accessTokens(Buffer.alloc(32, 7));
  const e2b = await createE2bServer({ ...parts, events, tokens, templates, domain: () => 'localhost' });
  const api = await createApiServer({ ...parts, apiKey: 'key-of-the-operator', beside: e2b, names: ['localhost'] });
  const setup: Setup = { port: (await api.listen({ port: 0 })) ?? 0, keys, sandbox, rounds: Number(values.rounds) };
  console.log(`idle: ${await idle()} of a processor`);
  let turns = new LongTurns();
  let watch = new LoopWatch(turns, systemClock, silentLog);
  await sleep(START_MS);
  console.log(`idle, watched: ${await idle()}`);
  const client = new Worker(new URL(import.meta.url), { workerData: setup });
  client.on('message', async (line: string) => {
    const [longest] = turns.list(Date.now());
    const of =
      longest === undefined ? 'no turn over 50 ms' : `${longest.ms} (processor ${longest.cpuMs}) ${longest.place}`;
    console.log(`${line}; longest turn ${of}`);
    await watch.close();
    turns = new LongTurns();
    watch = new LoopWatch(turns, systemClock, silentLog);
    client.postMessage('next');
  });
  await once(client, 'exit');
  await watch.close();
  await api.close();
  await e2b[Symbol.asyncDispose]();
  await events[Symbol.asyncDispose]();
}

function fillEvents(path: string): void {
  using journal = new EventJournal(path);
  const event = { tenant: 'mine', sandboxId: newSandboxId(), template: 'agent', execution: 'x', atMs: 0, data: null };
  for (let made = 0; made < EVENTS; made += 1) journal.append({ type: 'sandbox.lifecycle.updated', ...event });
  const hook = {
    tenant: 'mine',
    name: 'hook',
    url: 'https://example.com/',
    enabled: true,
    secret: 's',
    createdAtMs: 0,
  };
  for (let made = 0; made < WEBHOOKS; made += 1) {
    journal.saveWebhook({ ...hook, id: `${made}`, events: ['sandbox.lifecycle.checkpointed'] }, true);
  }
}

async function idle(): Promise<string> {
  const before = process.cpuUsage();
  await sleep(IDLE_MS);
  const { user, system } = process.cpuUsage(before);
  return `${((user + system) / 10 / IDLE_MS).toFixed(2)} %`;
}

interface Asked {
  readonly key?: string;
  readonly body?: string;
  readonly host?: string;
}

async function attack({ port, keys, sandbox, rounds }: Setup): Promise<void> {
  const agent = new Agent({ keepAlive: true });
  const ask = async (method: string, path: string, { key, body, host }: Asked = {}): Promise<void> => {
    const headers = {
      ...(key === undefined ? {} : { 'x-api-key': key }),
      ...(body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
      ...(host === undefined ? {} : { host }),
    };
    const sent = request({ port, method, path, headers, agent });
    sent.on('response', (answer) => answer.resume());
    // The server may answer before the end of the body, and close.
    sent.on('error', () => undefined);
    sent.end(body);
    await new Promise<void>((resolve) => sent.on('close', () => resolve()));
  };
  const create = (body: string) => ask('POST', '/v1/sandboxes', { key: keys.mine, body });
  const numbers = `{"env":{${pairs((n) => `"${n}":0`)}}}`;
  const texts = `{"env":{${pairs((n) => `"A${n}":"${'x'.repeat(70)}"`)}}}`;
  const stranger = () => ask('GET', '/', { host: `3000-${newSandboxId()}.localhost` });
  const recipes: Record<string, () => Promise<unknown>> = {
    nothing: () => sleep(20),
    'S3: 8 MiB of numbers as variables': () => create(numbers),
    'S3: 8 MiB of texts as variables': () => create(texts),
    'S4: 20 unknown ids without a key': () => Promise.all(Array.from({ length: 20 }, stranger)),
    'list of the other tenant': () => ask('GET', '/v1/sandboxes', { key: keys.other }),
    'its snapshots': () => ask('GET', '/v1/snapshots', { key: keys.other }),
    'its host': () => ask('GET', '/v1/host', { key: keys.other }),
    'M2: an event of the other tenant': () =>
      ask('POST', `/sandboxes/${sandbox}/timeout`, { key: keys.other, body: '{"timeout":3600}' }),
  };
  for (const [name, recipe] of Object.entries(recipes)) {
    let isOver = false;
    const [taken, health]: [number[], number[]] = [[], []];
    const timed = async (times: number[], run: () => Promise<unknown>): Promise<void> => {
      const startMs = performance.now();
      await run();
      times.push(performance.now() - startMs);
    };
    const probing = (async () => {
      for (; !isOver; await sleep(5)) await timed(health, () => ask('GET', '/v1/health', { key: keys.other }));
    })();
    for (let round = 0; round < rounds; round += 1) await timed(taken, recipe);
    isOver = true;
    await probing;
    const [took, waits] = [ascending(taken), ascending(health)];
    const line = `${name}: n ${rounds}, p50 ${at(took, 0.5)}, p95 ${at(took, 0.95)}`;
    parentPort?.postMessage(`${line}; health p50 ${at(waits, 0.5)}, p99 ${at(waits, 0.99)}`);
    if (parentPort !== null) await once(parentPort, 'message');
  }
  process.exit();
}

/** Pairs of a JSON object, up to the largest body. */
function pairs(pair: (n: number) => string): string {
  const made: string[] = [];
  for (let [n, bytes] = [0, 0]; bytes < BODY_BYTES; n += 1) {
    made.push(pair(n));
    bytes += (made.at(-1)?.length ?? 0) + 1;
  }
  return made.slice(0, -1).join();
}
