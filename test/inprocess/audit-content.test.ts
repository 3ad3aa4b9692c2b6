/** Contents of requests and answers in the audit log, with a real bridge and scripted upstreams. */
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { AuditLog } from '../../src/api/tenants/audit.ts';
import { changedContents } from '../../src/api/tenants/audit-read.ts';
import { lineHash, parseRecord } from '../../src/api/tenants/audit-record.ts';
import { verifyAudit } from '../../src/api/tenants/audit-verify.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import type { ContentMode } from '../../src/base/text/content-mode.ts';
import type { UpstreamApi } from '../../src/inference/bridge/upstream/address.ts';
import { type AuditedBridge, auditedBridge } from '../support/audited-bridge.ts';
import { cli } from '../support/cli.ts';
import { sendAnswer, streamedAnswer } from '../support/completions.ts';
import { sendMessage } from '../support/messages.ts';
import { completion, delta, sendJson, startEvents } from '../support/mock-upstream.ts';

let world: AuditedBridge | undefined;
afterEach(async () => {
  await world?.close();
  world = undefined;
});

const KEY = 'sk-proj-0123456789abcdefghij';
const ASKED = `mail to ann@mail.example`;
const TEXT = `the key is ${KEY}, 😀 done`;
const CALLS = [{ id: 'call_1', name: 'send', arguments: `{"key":"${KEY}"}` }];
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

type Path = '/v1/chat/completions' | '/v1/responses' | '/v1/messages' | '/api/chat';

function requestOf(path: Path, stream: boolean): Record<string, unknown> {
  const messages = [{ role: 'user', content: ASKED }];
  const schema = { type: 'object' };
  const bodies = {
    '/v1/chat/completions': { messages, tools: [{ type: 'function', function: { name: 'send', parameters: schema } }] },
    '/api/chat': { messages, tools: [{ type: 'function', function: { name: 'send', parameters: schema } }] },
    '/v1/responses': { input: ASKED, tools: [{ type: 'function', name: 'send', parameters: schema }] },
    '/v1/messages': { messages, max_tokens: 50, tools: [{ name: 'send', input_schema: schema }] },
  };
  return { model: 'm1', stream, ...bodies[path] };
}

/** One request, and its records. */
async function asked(
  content: ContentMode,
  path: Path,
  api: UpstreamApi = 'openai',
  stream = false,
): Promise<{ model: Record<string, unknown>; content: Record<string, unknown> | undefined }> {
  world = await auditedBridge({ content, api });
  const send = api === 'openai' ? sendAnswer : sendMessage;
  world.upstream.answer(({ body }, response) =>
    send(body, response, { text: TEXT, calls: CALLS, reasoning: `think of ${KEY}` }),
  );
  const answered = await world.fixture.call(path, requestOf(path, stream));
  expect(answered.status, answered.body).toBe(200);
  const [record] = await world.records(1);
  const [line = ''] = (await world.text('content')).split('\n');
  const kept = parseRecord(line);
  if (kept !== null) {
    expect(record?.model?.content).toEqual({ seq: 1, sha256: lineHash(line) });
    expect(kept).toMatchObject({ tenant: 'acme', target: 'sandbox-a', call: record?.call });
  }
  return { model: { ...record?.model }, content: kept?.content };
}

it('off: has no content', async () => {
  const { model, content } = await asked('off', '/v1/chat/completions');
  expect(content).toBeUndefined();
  expect(model).not.toHaveProperty('sha256');
  expect(await world?.text()).not.toMatch(/ann@|the key|sk-proj/);
});

const WAYS: readonly (readonly [Path, UpstreamApi, boolean])[] = [
  ['/v1/chat/completions', 'openai', false],
  ['/v1/chat/completions', 'openai', true],
  ['/v1/chat/completions', 'anthropic', true],
  ['/v1/responses', 'openai', true],
  ['/v1/messages', 'openai', false],
  ['/v1/messages', 'anthropic', false],
  ['/v1/messages', 'anthropic', true],
  ['/api/chat', 'openai', true],
];

it.each(WAYS)('hash, %s of %s, stream %s: has only the hashes', async (path, api, stream) => {
  const { model, content } = await asked('hash', path, api, stream);
  expect(content).toBeUndefined();
  expect(model['sha256']).toEqual({ request: expect.stringMatching(/^[0-9a-f]{64}$/), answer: sha256(TEXT) });
  expect(model).not.toHaveProperty('content');
  expect(await world?.text()).not.toMatch(/ann@|the key|sk-proj/);
  await world?.close();
});

it.each(WAYS)('redacted, %s of %s, stream %s: has both without secrets', async (path, api, stream) => {
  const { model, content } = await asked('redacted', path, api, stream);
  const request = content?.['request'] as { body: Record<string, unknown> };
  expect(JSON.stringify(request.body)).toContain('mail to [redacted: e-mail address]');
  expect(request.body).toMatchObject({ model: 'm1', stream });
  expect(content?.['answer']).toMatchObject({
    choices: [
      {
        text: 'the key is [redacted: API key], 😀 done',
        reasoning: 'think of [redacted: API key]',
        toolCalls: [{ name: 'send', arguments: '{"key":"[redacted: API key]"}' }],
      },
    ],
  });
  // A hash of the whole would confirm a guessed secret.
  expect(model).not.toHaveProperty('sha256');
  expect(await world?.text('content')).not.toMatch(/ann@|sk-proj|0123456789/);
});

it.each(WAYS)('full, %s of %s, stream %s: has both unchanged', async (path, api, stream) => {
  const { model, content } = await asked('full', path, api, stream);
  const request = content?.['request'] as { body: Record<string, unknown>; sha256: string };
  expect(request.body).toMatchObject(requestOf(path, stream));
  expect(request.sha256).toBe(sha256(sortedJson(requestOf(path, stream))));
  expect(content?.['answer']).toMatchObject({
    sha256: sha256(TEXT),
    choices: [{ text: TEXT, toolCalls: CALLS.map(({ id: _, ...call }) => call) }],
  });
  expect(content?.['answer']).not.toHaveProperty('cut');
  expect(model['sha256']).toEqual({ request: request.sha256, answer: sha256(TEXT) });
});

it('an answer that breaks off: keeps the received part, marked, and no part of a secret', async () => {
  world = await auditedBridge({ content: 'redacted' });
  world.upstream.answer((_, response) => {
    startEvents(response);
    response.write(delta('the key is ') + delta('sk-proj-01'), () => response.destroy());
  });
  await world.fixture.call('/v1/chat/completions', requestOf('/v1/chat/completions', true));
  const [record] = await world.records(1);
  expect(record?.model?.outcome).toBe('upstream-lost');
  const content = parseRecord((await world.text('content')).split('\n')[0] ?? '')?.content;
  expect(content?.['answer']).toMatchObject({ cut: true, choices: [{ text: 'the key is ' }] });
});

it('long contents are truncated in the log, not for the guest', async () => {
  world = await auditedBridge({ content: 'full' });
  const long = 'word '.repeat(60_000);
  world.upstream.answer((_, response) => sendJson(response, 200, completion(long)));
  const messages = [{ role: 'user', content: `${long}THE END` }];
  const answered = await world.fixture.call('/v1/chat/completions', { model: 'm1', messages });
  expect(answered.body).toContain(long);
  await world.records(1);
  const line = (await world.text('content')).split('\n')[0] ?? '';
  expect(line.length).toBeLessThan(150_000);
  const content = parseRecord(line)?.content;
  expect(content).toMatchObject({
    request: { cut: true, body: { messages: [{ content: expect.stringMatching(/THE END$/) }] } },
    answer: { cut: true, characters: long.length, sha256: sha256(long) },
  });
});

it('a plain answer that is too long to be parsed again passes, and is marked', async () => {
  world = await auditedBridge({ content: 'full' });
  const long = 'word '.repeat(300_000);
  world.upstream.answer((_, response) => sendJson(response, 200, completion(long)));
  const body = requestOf('/v1/chat/completions', false);
  expect((await world.fixture.call('/v1/chat/completions', body)).body).toContain(long);
  await world.records(1);
  const content = parseRecord((await world.text('content')).split('\n')[0] ?? '')?.content;
  expect(content?.['answer']).toMatchObject({ cut: true, choices: [] });
});

it('embeddings keep their request, token counts nothing', async () => {
  world = await auditedBridge({ content: 'full', api: 'anthropic' });
  world.upstream.answer((_, response) => sendJson(response, 200, { input_tokens: 5 }));
  const body = requestOf('/v1/messages', false);
  delete body['stream'];
  delete body['max_tokens'];
  const counted = await world.fixture.call('/v1/messages/count_tokens', body);
  expect(counted.status, counted.body).toBe(200);
  const [record] = await world.records(1);
  expect(record?.call).toBe('MODEL count_tokens');
  expect(await world.text('content')).toBe('');
});

it('verify finds a changed, a missing and a reordered content', async () => {
  world = await auditedBridge({ content: 'redacted' });
  world.upstream.answer(({ body }, response) => sendAnswer(body, response, { text: 'hello' }));
  for (let n = 0; n < 3; n += 1) {
    await world.fixture.call('/v1/chat/completions', requestOf('/v1/chat/completions', false));
  }
  await world.records(3);
  const text = await world.text('content');
  await world.end();
  const { home } = world;
  const path = world.path('content');
  const lines = text.trimEnd().split('\n');
  const problemsOf = async (changed: readonly string[]): Promise<string> => {
    await writeFile(path, `${changed.join('\n')}\n`);
    return (await verifyAudit(home, { kind: 'content', tenant: 'acme' })).problems.join();
  };
  expect(await problemsOf(lines)).toBe('');
  const [first = ''] = lines;
  expect(await problemsOf(lines.with(0, first.replace('"hello"', '"jello"')))).toContain('line 1: it was changed');
  expect(await problemsOf(lines.toSpliced(1, 1))).toContain('records 2 to 2 are missing');
  expect(await problemsOf(lines.slice(0, 2))).toContain('records 3 to 3 are missing at the end');
  expect(await problemsOf(lines.toReversed())).toContain('is out of order');

  // A whole new log of contents does not match the records of requests.
  const rewritten: string[] = [];
  for (const line of lines) {
    const record = JSON.parse(line.replace('"hello"', '"jello"')) as object;
    const prev = rewritten.length === 0 ? {} : { prev: lineHash(rewritten.at(-1) ?? '') };
    rewritten.push(JSON.stringify({ ...record, ...prev }));
  }
  expect(await problemsOf(lines)).toBe('');
  expect(await changedContents(home, 'acme')).toEqual([]);
  const head = join(dirname(path), 'head.json');
  await writeFile(head, JSON.stringify({ seq: 3, hash: lineHash(rewritten.at(-1) ?? '') }));
  expect(await problemsOf(rewritten)).toBe('');
  expect(await changedContents(home, 'acme')).toEqual([1, 2, 3]);

  const calls = await AuditLog.open({ homeDir: home, clock: systemClock, log: silentLog });
  await calls[Symbol.asyncDispose]();
  const verified = await cli(['audit', 'verify'], { env: { NEUROVISOR_HOME: home } }).result;
  expect(verified.status).toBe(1);
  expect(verified.stdout).toMatch(/contents:\n.*3 do not match their requests.* 1, 2, 3\n/s);
});

it('guests’ streams are the same in every mode', async () => {
  const bodies: string[] = [];
  for (const content of ['off', 'hash', 'redacted', 'full'] as const) {
    world = await auditedBridge({ content });
    world.upstream.answer((_, response) => {
      startEvents(response);
      response.end(
        streamedAnswer({ text: TEXT }, 1)
          .map((data) => `data: ${data}\n\n`)
          .join(''),
      );
    });
    const body = requestOf('/v1/chat/completions', true);
    bodies.push((await world.fixture.call('/v1/chat/completions', body)).body);
    await world.close();
  }
  expect(new Set(bodies).size).toBe(1);
});

function sortedJson(value: unknown): string {
  return JSON.stringify(value, (_, child: unknown) =>
    typeof child === 'object' && child !== null && !Array.isArray(child)
      ? Object.fromEntries(Object.entries(child).sort(([a], [b]) => (a < b ? -1 : 1)))
      : child,
  );
}
