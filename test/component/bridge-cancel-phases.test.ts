/**
 * A caller disconnects, or its sandbox is saved, in each phase of a request and each dialect (B7, B23): what each side
 * sees, and what is released.
 */
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { CleanupStack } from '../../src/base/cleanup.ts';
import type { UpstreamTarget } from '../../src/inference/bridge/bridge.ts';
import { type BridgeFixture, bridgeFixture, call, type Opened } from '../support/bridge-fixture.ts';
import { makeAuthority } from '../support/certificate-authority.ts';
import { holdConnection } from '../support/held-connection.ts';
import {
  completion,
  delta,
  type MockUpstream,
  sendJson,
  startEvents,
  startMockUpstream,
} from '../support/mock-upstream.ts';

let fixture: BridgeFixture;
let cleanup: CleanupStack;
afterEach(async () => {
  await fixture.close();
  await cleanup.run();
});

const ACCOUNT = 'sandbox-a';
const POLICY = { budget: { outputTokens: 100, requests: 2 } };
/** More than half of the budget: tokens that stay reserved would cut the next answer. */
const TOKENS = 60;
const messages = [{ role: 'user', content: 'hello' }];
const CHAT = '/v1/chat/completions';
const CHAT_BODY = { model: 'm1', messages, max_tokens: TOKENS };

/** Includes how a client sees an error that asks to retry: an answer's status and text, and a stream's end. */
const DIALECTS = [
  {
    dialect: 'OpenAI chat',
    path: CHAT,
    body: CHAT_BODY,
    retry: [503, '"code":"sandbox_suspended"'],
    end: /^data: \{"error":\{.*"code":"sandbox_suspended"\}\}$/,
  },
  {
    dialect: 'OpenAI Responses',
    path: '/v1/responses',
    body: { model: 'm1', input: 'hello', max_output_tokens: TOKENS },
    retry: [503, '"type":"server_error"'],
    end: /^event: response\.failed\ndata: .*"code":"server_error"/,
  },
  {
    dialect: 'Anthropic',
    path: '/v1/messages',
    body: CHAT_BODY,
    retry: [529, '"type":"overloaded_error"'],
    end: /^event: error\ndata: .*"type":"overloaded_error"/,
  },
  {
    dialect: 'Ollama',
    path: '/api/chat',
    body: { model: 'm1', messages, options: { num_predict: TOKENS } },
    retry: [503, '{"error":"The sandbox was paused'],
    end: /^\{"error":"The sandbox was paused.*"\}$/,
  },
];
const LEAVES = [
  { way: 'the caller closes', leave: (opened: Opened) => opened.abort() },
  { way: 'the port is closed', leave: () => void fixture.port.close() },
];

interface Begun {
  readonly opened: Opened;
  readonly upstream: MockUpstream;
  /** Resolves when the upstream sees the end or, for a request that waits for a slot, when it has left the queue. */
  readonly seen: Promise<void>;
  /** Requests that the upstream has received, and those with a slot once the caller is gone. */
  readonly received: number;
  readonly running: number;
  /** Whether the request was on its way to the upstream, so that it has a record. */
  readonly isSent: boolean;
  readonly used: { readonly requests: number; readonly outputTokens: number };
  /** Tokens in the record. */
  readonly seenTokens: number;
  /** Frees the slot of another caller. */
  free?(): void;
}

type Begin = (path: string, body: { readonly stream?: boolean }) => Promise<Begun>;

const PHASES: readonly { readonly phase: string; readonly begin: Begin }[] = [
  { phase: 'in the queue', begin: beginInQueue },
  { phase: 'while the bridge connects', begin: beginInConnect },
  { phase: 'before the first byte', begin: (path, body) => beginSent(path, body, []) },
  { phase: 'in mid-stream', begin: (path, body) => beginSent(path, body, ['one', 'two']) },
];

const open = async (target?: UpstreamTarget): Promise<void> => {
  cleanup = new CleanupStack();
  fixture = await bridgeFixture({
    policy: POLICY,
    upstream: async (mock) => ({ ...(target ?? mock.target), models: ['m1'], slots: 1 }),
  });
};

/** Another sandbox has the only slot. */
async function beginInQueue(path: string, body: object): Promise<Begun> {
  await open();
  const { mock: upstream } = fixture;
  const held = Promise.withResolvers<ServerResponse>();
  upstream.answer((_, response) => held.resolve(response));
  const other = await attach('other', 'other');
  const first = call(other, CHAT, CHAT_BODY);
  const holding = await held.promise;
  const opened = fixture.open(path, body);
  await expect.poll(() => gauge('waiting')).toBe(1);
  return {
    opened,
    upstream,
    seen: turnsUntil(() => gauge('waiting') === 0),
    received: 1,
    running: 1,
    isSent: false,
    seenTokens: 0,
    used: { requests: 0, outputTokens: 0 },
    async free() {
      sendJson(holding, 200, completion('held'));
      expect((await first).status).toBe(200);
    },
  };
}

/** TCP is connected, and the server is silent when TLS begins; it serves later connections. */
async function beginInConnect(path: string, body: object): Promise<Begun> {
  const authority = await makeAuthority();
  const upstream = await startMockUpstream({ tls: await authority.issue(['localhost']) });
  const door = await holdConnection(Number(new URL(upstream.target.baseUrl ?? '').port));
  await open({ name: 'door', baseUrl: `https://localhost:${door.port}`, authority: authority.cert });
  cleanup.push('upstream', () => upstream.close());
  cleanup.push('door', () => door[Symbol.asyncDispose]());
  const opened = fixture.open(path, body);
  await door.begun;
  const used = { requests: 0, outputTokens: 0 };
  const counts = { received: 0, running: 0, isSent: true, seenTokens: 0, used };
  return { opened, upstream, seen: door.ended, ...counts };
}

/** @param texts the first texts of a stream */
async function beginSent(path: string, body: { readonly stream?: boolean }, texts: readonly string[]): Promise<Begun> {
  await open();
  const { mock: upstream } = fixture;
  upstream.answer((_, response) => {
    if (texts.length === 0) return;
    startEvents(response);
    response.write(texts.map(delta).join(''));
  });
  const arrived = upstream.next();
  const opened = fixture.open(path, body);
  const { aborted } = await arrived;
  for (const text of texts) await opened.until(text);
  const seenTokens = texts.length;
  // The plain answer may be written already, so the whole reservation is used.
  const used = { requests: 1, outputTokens: body.stream === true ? seenTokens : TOKENS };
  const counts = { received: 1, running: 0, isSent: true, seenTokens, used };
  return { opened, upstream, seen: aborted, ...counts };
}

/** @returns the socket of a new port */
async function attach(sandboxId: string, account: string): Promise<string> {
  const socketPath = join(fixture.dir, `${sandboxId}.sock`);
  const policy = account === ACCOUNT ? POLICY : {};
  await fixture.bridge.attach({ sandboxId, socketPath, policy, account: { id: account } });
  return socketPath;
}

const gauge = (name: string): number | undefined =>
  fixture.bridge
    .metrics()
    .find((metric) => metric.name === `neurovisor_model_queue_${name}`)
    ?.samples()[0]?.value;

/** Checks in each turn of the event loop, so that the time is the bridge's. */
async function turnsUntil(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await new Promise(setImmediate);
}

const CASES = DIALECTS.flatMap((dialect) =>
  PHASES.flatMap((phase) =>
    ['a stream', 'a plain answer']
      .filter((form) => phase.phase !== 'in mid-stream' || form === 'a stream')
      .flatMap((form) => LEAVES.map((leave) => ({ ...dialect, ...phase, ...leave, form }))),
  ),
);

describe('bridge: a caller that disconnects', () => {
  it.for(CASES)('$dialect, $form, $phase: $way', async (test, { annotate }) => {
    const { path, body, form, begin, leave } = test;
    const begun = await begin(path, { ...body, stream: form === 'a stream' });
    const { opened, upstream, seen, received, running, used, seenTokens } = begun;

    const leftAtMs = performance.now();
    leave(opened);
    await seen;
    await annotate(`seen after ${(performance.now() - leftAtMs).toFixed(1)} ms`);

    expect((await opened.ended).broken).toBe(true);
    await expect
      .poll(() => fixture.port.stats())
      .toMatchObject({ cancelled: 1, inFlight: 0, connections: 0, bodyBytes: 0 });
    await expect.poll(() => upstream.connections()).toBe(running);
    expect(upstream.requests).toHaveLength(received);
    expect([gauge('waiting'), gauge('running')]).toEqual([0, running]);
    expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject(used);
    const record = { outcome: 'cancelled', completionTokens: seenTokens, estimated: received > 0 };
    expect(fixture.usage).toMatchObject(begun.isSent ? [record] : []);

    // Slot and budget are free: the next request does not wait, and its answer is limited to the unused rest.
    await begun.free?.();
    upstream.answer((_, response) => sendJson(response, 200, completion('next')));
    const next = await attach('next', ACCOUNT);
    expect((await call(next, CHAT, CHAT_BODY)).status).toBe(200);
    expect(JSON.parse(upstream.requests.at(-1)?.body ?? '')).toMatchObject({
      max_tokens: Math.min(TOKENS, 100 - used.outputTokens),
    });
  });
});

describe('bridge: a save of the sandbox', () => {
  it.for(CASES.filter(({ way }) => way === 'the caller closes'))(
    '$dialect, $form, $phase: an error that asks to retry; the upstream sees the end',
    async ({ path, body, form, phase, begin, retry, end }) => {
      const begun = await begin(path, { ...body, stream: form === 'a stream' });
      const { opened, upstream, seen, running, used } = begun;

      fixture.port.setSuspended(true);
      await seen;
      expect(await opened.ended).toEqual({ broken: false });
      const { statusCode, headers } = await opened.head;
      if (phase === 'in mid-stream') {
        expect(
          opened
            .text()
            .trimEnd()
            .split(/\n\n|\n(?=\{)/)
            .at(-1),
        ).toMatch(end);
        expect(opened.text()).not.toMatch(/\[DONE\]|message_stop|"done":true|response\.completed/);
      } else {
        expect([statusCode, opened.text()]).toEqual([retry[0], expect.stringContaining(`${retry[1]}`)]);
        expect(headers).toMatchObject({ 'retry-after': '1', 'x-should-retry': 'true' });
      }
      await expect.poll(() => fixture.port.stats()).toMatchObject({ cancelled: 1, inFlight: 0, bodyBytes: 0 });
      expect([gauge('waiting'), gauge('running')]).toEqual([0, running]);
      expect(fixture.bridge.budgetUse(ACCOUNT)).toMatchObject(used);
      expect(fixture.usage).toMatchObject(begun.isSent ? [{ outcome: 'cancelled' }] : []);

      // Until the end of the save new requests get the same error, and afterwards real answers.
      await begun.free?.();
      upstream.answer((_, response) => sendJson(response, 200, completion('next')));
      const refused = await fixture.call(path, { ...body, stream: false });
      expect([refused.status, refused.body]).toEqual([retry[0], expect.stringContaining(`${retry[1]}`)]);
      fixture.port.setSuspended(false);
      expect((await fixture.call(path, { ...body, stream: false })).status).toBe(200);
    },
  );
});
