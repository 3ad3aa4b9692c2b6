/** Events of sandboxes and webhooks, by E2B's routes. */
import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Sandbox } from 'e2b';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { eventPoster } from '../../src/egress/webhook.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';

interface Received {
  readonly body: string;
  readonly headers: IncomingHttpHeaders;
}

let world: E2bWorld;
let home: string;
const received: Received[] = [];
let onReceived: () => void = () => undefined;
const server = createServer((request, response) => {
  let body = '';
  request.on('data', (bytes) => {
    body += String(bytes);
  });
  request.once('end', () => {
    received.push({ body, headers: request.headers });
    response.end();
    onReceived();
  });
});
let hook: string;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-e2b-'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  hook = `http://127.0.0.1:${port}/hook`;
  world = await openE2bWorld({
    home,
    eventsPath: join(home, 'events.db'),
    post: eventPoster({ hosts: [`127.0.0.1:${port}`], log: silentLog }),
  });
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  server.close();
  server.closeAllConnections();
  await rm(home, { recursive: true, force: true });
});

async function ask(method: string, path: string, body?: object) {
  const answer = await fetch(`${world.url}${path}`, {
    method,
    headers: { 'x-api-key': world.apiKey, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: answer.status, body: (await answer.json()) as never };
}

const until = async (count: number): Promise<void> => {
  while (received.length < count) {
    await new Promise<void>((resolve) => {
      onReceived = resolve;
    });
  }
};

it('a life of a sandbox is a list of events, and reaches a webhook signed and in order', async () => {
  const secret = 'a secret of this test';
  const events = [
    'sandbox.lifecycle.created',
    'sandbox.lifecycle.updated',
    'sandbox.lifecycle.paused',
    'sandbox.lifecycle.resumed',
    'sandbox.lifecycle.killed',
  ];
  const made = await ask('POST', '/events/webhooks', {
    name: 'mine',
    url: hook,
    enabled: true,
    events,
    signatureSecret: secret,
  });
  expect(made).toMatchObject({ status: 201, body: { name: 'mine', url: hook, enabled: true } });
  expect(JSON.stringify(made.body)).not.toContain(secret);

  const sandbox = await Sandbox.create('agent', { ...world.client, metadata: { owner: 'me' } });
  await sandbox.setTimeout(400_000);
  await sandbox.pause();
  const again = await Sandbox.connect(sandbox.sandboxId, world.client);
  await again.kill();

  const page = await ask('GET', `/events/sandboxes/${sandbox.sandboxId}?orderAsc=true&limit=100`);
  const listed = page.body as { type: string; id: string; eventData: object }[];
  const types = listed.map(({ type }) => type);
  expect(new Set(types)).toEqual(new Set(events));
  expect([types[0], types.at(-1)]).toEqual([events[0], events.at(-1)]);
  expect(listed[0]).toMatchObject({ version: 'v2', eventData: { sandbox_metadata: { owner: 'me' } } });
  expect(listed.at(-1)?.eventData).toMatchObject({ execution: { vcpu_count: expect.any(Number) } });

  await until(listed.length);
  expect(received.map(({ body }) => (JSON.parse(body) as { id: string }).id)).toEqual(listed.map(({ id }) => id));
  const { body, headers } = received[0] ?? { body: '', headers: {} };
  const digest = createHash('sha256')
    .update(secret + body)
    .digest('base64')
    .replace(/=+$/, '');
  expect(headers).toMatchObject({
    'e2b-signature': digest,
    'e2b-signature-version': 'v1',
    'e2b-webhook-id': (made.body as { id: string }).id,
  });
});

it('webhooks are listed, changed and deleted', async () => {
  const [first] = (await ask('GET', '/events/webhooks')).body as { id: string }[];
  const path = `/events/webhooks/${first?.id}`;
  expect((await ask('PATCH', path, { enabled: false })).body).toMatchObject({ enabled: false });
  expect((await ask('GET', path)).body).toMatchObject({ name: 'mine', enabled: false });
  expect((await ask('DELETE', path)).status).toBe(200);
  expect((await ask('GET', path)).status).toBe(404);
});

it.each([
  ['a URL that is none', { url: 'file:///etc/passwd' }],
  ['an unknown event', { events: ['sandbox.lifecycle.other'] }],
  ['no event', { events: [] }],
  ['an empty secret', { signatureSecret: '' }],
])('a webhook with %s is refused', async (_what, wrong) => {
  const right = { name: 'w', url: hook, events: ['sandbox.lifecycle.killed'], signatureSecret: 's' };
  expect((await ask('POST', '/events/webhooks', { ...right, ...wrong })).status).toBe(400);
});

it('events are paged, newest first, and filtered by type', async () => {
  const all = (await ask('GET', '/events/sandboxes?limit=100')).body as { id: string }[];
  const second = (await ask('GET', '/events/sandboxes?limit=1&offset=1')).body as { id: string }[];
  expect(second.map(({ id }) => id)).toEqual([all[1]?.id]);
  const killed = await ask('GET', '/events/sandboxes?types=sandbox.lifecycle.killed&types=sandbox.lifecycle.paused');
  const types = (killed.body as { type: string }[]).map(({ type }) => type);
  expect(types).toEqual(['sandbox.lifecycle.killed', 'sandbox.lifecycle.paused']);
  expect((await ask('GET', '/events/sandboxes?limit=101')).status).toBe(400);
});

it('a sandbox that ended while no daemon ran has an end event for its readers, too', async () => {
  const path = join(home, 'other.db');
  const options = { home, eventsPath: path };
  const first = await openE2bWorld(options);
  const { sandboxId } = await Sandbox.create('agent', first.client);
  await first[Symbol.asyncDispose]();
  await using second = await openE2bWorld(options);
  const answer = await fetch(`${second.url}/events/sandboxes/${sandboxId}`, {
    headers: { 'x-api-key': second.apiKey },
  });
  expect(await answer.json()).toMatchObject([
    { type: 'sandbox.lifecycle.killed', eventData: { end: { cause: 'host-lost' } } },
    { type: 'sandbox.lifecycle.created' },
  ]);
});

it('no error is logged', () => expect(world.errors).toEqual([]));
