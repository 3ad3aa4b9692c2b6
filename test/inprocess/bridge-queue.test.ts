/** Sandboxes share an upstream with few slots (B8, B9): checks order and counts, not times. */
import type { ServerResponse } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import type { BridgePort } from '../../src/inference/bridge/bridge.ts';
import type { BridgePolicy } from '../../src/inference/bridge/policy.ts';
import { QUEUE_LIMITS } from '../../src/inference/bridge/queue/upstream-queues.ts';
import { type BridgeFixture, bridgeFixture, call, open } from '../support/bridge-fixture.ts';
import { delta, type Recorded, sendJson, startEvents } from '../support/mock-upstream.ts';

let fixture: BridgeFixture;
afterEach(() => fixture?.close());

const CHAT = '/v1/chat/completions';
const bodyOf = (content: string, more: object = {}) => ({
  model: 'm1',
  messages: [{ role: 'user', content }],
  ...more,
});
const promptOf = ({ body }: Recorded): string =>
  (JSON.parse(body) as { messages: { content: string }[] }).messages[0]?.content ?? '';

const answered = (promptTokens: number, completionTokens: number) => ({
  choices: [{ index: 0, message: { role: 'assistant', content: 'x' }, finish_reason: 'stop' }],
  usage: { prompt_tokens: promptTokens, completion_tokens: completionTokens },
});

/** A bridge whose upstream answers one request after the other, when the test says so. */
async function queued(options: Parameters<typeof bridgeFixture>[0] & { readonly slots?: number } = {}) {
  const { slots = 1, ...rest } = options;
  fixture = await bridgeFixture({ ...rest, upstream: async (mock) => ({ ...mock.target, models: ['m1'], slots }) });
  const held: { readonly prompt: string; readonly response: ServerResponse }[] = [];
  const order: string[] = [];
  fixture.mock.answer((request, response) => {
    held.push({ prompt: promptOf(request), response });
    order.push(promptOf(request));
  });
  const attach = async (
    sandboxId: string,
    policy: BridgePolicy = {},
  ): Promise<{ readonly path: string; readonly port: BridgePort }> => {
    const path = join(fixture.dir, `${sandboxId}.sock`);
    return { path, port: await fixture.bridge.attach({ sandboxId, socketPath: path, policy }) };
  };
  /** Waits until the upstream has this many requests. */
  const holds = (count: number) => expect.poll(() => held.length).toBe(count);
  const end = async (promptTokens = 100, completionTokens = 100): Promise<void> => {
    await expect.poll(() => held.length).toBeGreaterThan(0);
    const next = held.shift();
    if (next !== undefined) sendJson(next.response, 200, answered(promptTokens, completionTokens));
  };
  return { attach, held, order, holds, end };
}

/** Requests a stream and reads none of it. */
function deaf(socketPath: string): Socket {
  const socket = connect(socketPath);
  socket.on('error', () => undefined);
  socket.pause();
  const text = JSON.stringify(bodyOf('deaf', { stream: true }));
  socket.write(`POST ${CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
  return socket;
}

describe('a guest that does not read its answer', () => {
  it('keeps its slot while no other request waits, and loses it soon after one does', async () => {
    const limits = { slotStallTimeoutMs: 300 };
    const { attach, order } = await queued({ policy: { limits } });
    fixture.mock.answer((request, response) => {
      order.push(promptOf(request));
      if (promptOf(request) !== 'deaf') return sendJson(response, 200, answered(1, 1));
      startEvents(response);
      const push = (): void => {
        if (response.destroyed) return;
        if (response.write(delta('x'.repeat(64_000)))) setImmediate(push);
        else response.once('drain', push);
      };
      push();
    });
    const arrived = fixture.mock.next();
    const socket = deaf(fixture.socketPath);
    const { aborted } = await arrived;
    // Longer than its slot would last if others waited.
    await setTimeout(3 * limits.slotStallTimeoutMs);
    expect(fixture.port.stats()).toMatchObject({ cancelled: 0, inFlight: 1 });
    const other = await attach('other');
    const waiting = call(other.path, CHAT, bodyOf('other'));
    await aborted;
    expect((await waiting).status).toBe(200);
    expect(order).toEqual(['deaf', 'other']);
    expect(fixture.port.stats()).toMatchObject({ cancelled: 1 });
    socket.destroy();
  });
});

const gauge = (name: string): number | undefined =>
  fixture.bridge
    .metrics()
    .find((metric) => metric.name === `neurovisor_model_queue_${name}`)
    ?.samples()[0]?.value;
const waiting = (count: number) => expect.poll(() => gauge('waiting')).toBe(count);

describe('bridge: the queue of an upstream', () => {
  it('one hog and nine polite sandboxes: polite ones that came later are served before the rest of the hog', async () => {
    const { attach, order, end } = await queued();
    const hog = await attach('hog');
    const calls = Array.from({ length: 20 }, (_, i) => call(hog.path, CHAT, bodyOf(`hog ${i}`)));
    await waiting(19);
    for (let i = 0; i < 9; i += 1) {
      const polite = await attach(`polite-${i}`);
      calls.push(call(polite.path, CHAT, bodyOf(`polite ${i}`)));
    }
    await waiting(28);
    for (let i = 0; i < 29; i += 1) await end();
    for (const { status } of await Promise.all(calls)) expect(status).toBe(200);
    expect(order).toHaveLength(29);
    const lastPolite = Math.max(...order.flatMap((name, i) => (name.startsWith('polite') ? [i] : [])));
    // The running one, and nine polite ones.
    expect(lastPolite).toBe(9);
    expect(order.filter((name) => name.startsWith('hog'))).toEqual(Array.from({ length: 20 }, (_, i) => `hog ${i}`));
    expect([gauge('waiting'), gauge('running')]).toEqual([0, 0]);
  });

  it('an upstream never has more requests than slots, and no slot is idle while one waits', async () => {
    const { attach, held, holds, end } = await queued({ slots: 3 });
    const { path } = await attach('a');
    const calls = Array.from({ length: 10 }, (_, i) => call(path, CHAT, bodyOf(`${i}`)));
    await waiting(7);
    for (let left = 10; left > 0; left -= 1) {
      await holds(Math.min(3, left));
      await waiting(Math.max(0, left - 3));
      expect(held.length).toBe(Math.min(3, left));
      await end();
    }
    await Promise.all(calls);
  });

  it('tenants share an upstream equally, however many sandboxes each has', async () => {
    const { attach, order, end, holds } = await queued({ tenantOf: (id) => id.split('-')[0] ?? null });
    const first = await attach('x-0');
    const calls = [call(first.path, CHAT, bodyOf('first'))];
    await holds(1);
    for (let i = 0; i < 6; i += 1) {
      const { path } = await attach(`many-${i}`);
      calls.push(call(path, CHAT, bodyOf('many')));
    }
    const { path } = await attach('one-0');
    for (let i = 0; i < 6; i += 1) calls.push(call(path, CHAT, bodyOf('one')));
    await waiting(12);
    for (let i = 0; i < 13; i += 1) await end();
    await Promise.all(calls);
    for (let i = 1; i < 13; i += 2) expect(order.slice(i, i + 2).toSorted()).toEqual(['many', 'one']);
  });

  it('priorities: interactive before normal before batch', async () => {
    const { attach, order, end, holds } = await queued();
    const first = await attach('first');
    const calls = [call(first.path, CHAT, bodyOf('first'))];
    await holds(1);
    for (const [i, priority] of (['batch', 'normal', 'interactive'] as const).entries()) {
      const { path } = await attach(priority, { priority });
      for (const _ of [1, 2]) calls.push(call(path, CHAT, bodyOf(priority)));
      await waiting(2 * (i + 1));
    }
    for (let i = 0; i < 7; i += 1) await end();
    await Promise.all(calls);
    expect(order.slice(1)).toEqual([...['interactive', 'interactive', 'normal', 'normal', 'batch', 'batch']]);
  });

  it('a guest that disconnects, or whose port is closed, leaves the queue at once and is never sent', async () => {
    const { attach, order, end, holds } = await queued();
    const a = await attach('a');
    const b = await attach('b');
    const first = call(a.path, CHAT, bodyOf('first'));
    await holds(1);
    const leaving = open(a.path, CHAT, bodyOf('leaving', { stream: true }));
    const closed = open(b.path, CHAT, bodyOf('closed'));
    const last = call(a.path, CHAT, bodyOf('last'));
    await waiting(3);
    leaving.abort();
    await waiting(2);
    await b.port.close();
    await waiting(1);
    expect((await closed.ended).broken).toBe(true);
    await end();
    await end();
    expect([(await first).status, (await last).status]).toEqual([200, 200]);
    expect(order).toEqual(['first', 'last']);
    expect(fixture.usage).toHaveLength(2);
  });

  it('a request that is cancelled in its slot frees it', async () => {
    const { attach, order, end, holds } = await queued();
    const { path } = await attach('a');
    const first = open(path, CHAT, bodyOf('first'));
    await holds(1);
    const second = call(path, CHAT, bodyOf('second'));
    await waiting(1);
    first.abort();
    await expect.poll(() => order).toEqual(['first', 'second']);
    await end();
    await end();
    expect((await second).status).toBe(200);
  });

  it('a full queue: 503 with Retry-After in the dialect, and room for others', async () => {
    const { attach, end, holds } = await queued({
      tenantOf: (id) => id,
      queue: { ...QUEUE_LIMITS, waiting: { sumMax: 4, ownMax: 2, guaranteed: 2, places: 2 } },
    });
    const hog = await attach('hog');
    const calls = [call(hog.path, CHAT, bodyOf('0'))];
    await holds(1);
    for (const one of ['1', '2']) calls.push(call(hog.path, CHAT, bodyOf(one)));
    await waiting(2);
    const refused = await call(hog.path, CHAT, bodyOf('3'));
    expect(refused.status).toBe(503);
    expect(refused.headers).toMatchObject({ 'retry-after': '5', 'x-should-retry': 'true' });
    expect(JSON.parse(refused.body)).toMatchObject({ error: { code: 'queue_full' } });
    const messages = await call(hog.path, '/v1/messages', bodyOf('4', { max_tokens: 9 }));
    expect(messages.status).toBe(529);
    expect(JSON.parse(messages.body)).toMatchObject({ error: { type: 'overloaded_error' } });
    const polite = await attach('polite');
    calls.push(call(polite.path, CHAT, bodyOf('5')));
    await waiting(3);
    for (let i = 0; i < 4; i += 1) await end();
    for (const { status } of await Promise.all(calls)) expect(status).toBe(200);
  });

  it('a wait beyond the limit: 503, in a stream an error event', async () => {
    const { attach, end, holds } = await queued({ queue: { ...QUEUE_LIMITS, waitMsMax: 20 } });
    const { path } = await attach('a');
    const first = call(path, CHAT, bodyOf('first'));
    await holds(1);
    const late = await call(path, CHAT, bodyOf('late'));
    expect([late.status, late.headers['retry-after']]).toEqual([503, '5']);
    expect(JSON.parse(late.body)).toMatchObject({ error: { code: 'queue_timeout' } });
    await end();
    expect((await first).status).toBe(200);
  });
});
