/** Transcriptions and translations of sound, whose requests are forms. */
import { createHash } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { BridgePolicy } from '../../src/inference/bridge/bridge.ts';
import { auditedBridge } from '../support/audited-bridge.ts';
import { type Answered, type BridgeFixture, bridgeFixture, call } from '../support/bridge-fixture.ts';
import { type FormPart, formOf, formType, partsOf } from '../support/forms.ts';
import { delta, finish, type Recorded, sendJson, startEvents } from '../support/mock-upstream.ts';
import { forwardTo, nodeOpenai, pythonOpenai, runScenario } from '../support/model-clients.ts';
import { requires } from '../support/requires.ts';

let fixture: BridgeFixture;
afterEach(() => fixture?.close());

const PATHS = ['transcriptions', 'translations'].map((name) => `/v1/audio/${name}`);
const [TRANSCRIBE = '', TRANSLATE = ''] = PATHS;
const SOUND = Buffer.concat([
  Buffer.from([0x52, 0x49, 0x46, 0x46, 0, 0xff, 0xc3, 0x28]),
  Buffer.from('\r\n--B\r\n--Bx--\r\n'.replaceAll('--B', '--C')),
]);
const FILE: FormPart = { name: 'file', fileName: '../my sound.wav', type: 'audio/wav', content: SOUND };
const MODEL: FormPart = { name: 'model', content: 'whisper' };
const text = (name: string, content: string): FormPart => ({ name, content });

const open = (policy: BridgePolicy = {}): Promise<BridgeFixture> =>
  bridgeFixture({ models: ['whisper', 'whisper-big'], policy });
const ask = (parts: readonly FormPart[], path = TRANSCRIBE): Promise<Answered> =>
  fixture.call(path, formOf(parts), { 'content-type': formType() });
const partsGot = ({ bytes, headers }: Recorded) => partsOf(bytes, headers['content-type'] ?? '');
const errorOf = ({ status, body }: Answered) => ({ status, ...JSON.parse(body).error });

const FILE_GOT = { name: 'file', fileName: 'my_sound.wav', type: 'audio/wav', bytes: SOUND.toString('hex') };

describe.each(PATHS)('%s', (path) => {
  it('gets the form written anew, under the model’s name at the server', async () => {
    fixture = await open({ aliases: { 'whisper-1': 'whisper-big' } });
    fixture.mock.answer((_, response) => {
      const usage = { type: 'tokens', input_tokens: 14, output_tokens: 45, total_tokens: 59 };
      sendJson(response, 200, { text: 'hällo', usage });
    });
    const settled = fixture.nextUsage();
    const prompt = 'Zoë,\r\nRené "x" --B';
    const sent = [FILE, text('prompt', prompt), text('model', 'whisper-1')];
    const answer = await ask([...sent, text('temperature', '0.20')], path);
    expect([answer.status, JSON.parse(answer.body).text]).toEqual([200, 'hällo']);
    const [request] = fixture.mock.requests;
    expect(request?.path).toBe(path);
    expect(request?.headers['content-type']).toMatch(/^multipart\/form-data; boundary=\w{48}$/);
    expect(request?.headers['content-length']).toBe(String(request?.bytes.length));
    expect(request && (await partsGot(request))).toEqual([
      { name: 'model', text: 'whisper-big' },
      { name: 'prompt', text: prompt },
      { name: 'temperature', text: '0.20' },
      FILE_GOT,
    ]);
    expect(await settled).toMatchObject({
      operation: path.split('/').at(-1)?.slice(0, -1),
      model: 'whisper-big',
      promptTokens: 14,
      completionTokens: 45,
      estimated: false,
      stream: false,
    });
    await expect.poll(() => fixture.port.stats()).toMatchObject({ inFlight: 0, bodyBytes: 0 });
  });

  it('passes other forms of a transcript as they are, and believes no usage in them', async () => {
    fixture = await open();
    const said = '1\n00:00:00,000 --> 00:00:01,000\n"cached_tokens": 57, "usage": {"input_tokens": 0}\n';
    fixture.mock.answer((_, response) => {
      response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' });
      response.end(said);
    });
    const settled = fixture.nextUsage();
    const answer = await ask([MODEL, FILE, text('response_format', 'srt')], path);
    expect([answer.status, answer.body]).toEqual([200, said]);
    expect(answer.headers['content-type']).toBe('text/plain; charset=utf-8');
    expect(await settled).toMatchObject({ estimated: true, completionTokens: 0, outcome: 'ok' });
  });

  it('refuses by name what is not listed, and forms that servers could read in two ways', async () => {
    fixture = await open();
    const good = [MODEL, FILE];
    const cases: [string, readonly FormPart[], object][] = [
      ['unknown', [...good, text('vllm_xargs', '{}')], { code: 'field_refused' }],
      ['unknown list', [...good, text('known_speaker_names[]', 'x')], { code: 'field_refused' }],
      ['misspelled', [FILE, text('Model', 'whisper')], { code: 'invalid_value', param: 'Model' }],
      ['prototype', [...good, text('__proto__', 'x')], { code: 'field_refused' }],
      ['other form', [...good, text('response_format', 'html')], { code: 'field_refused' }],
      ['two files', [...good, FILE], { code: 'invalid_value', param: 'file' }],
      ['another file', [...good, { ...FILE, name: 'prompt' }], { code: 'invalid_value' }],
      ['two models', [MODEL, ...good], { code: 'invalid_value', param: 'model' }],
      ['no file', [MODEL], { code: 'invalid_value', param: 'file' }],
      ['file as text', [MODEL, text('file', 'x')], { code: 'invalid_value', param: 'file' }],
      ['stream: 1', [...good, text('stream', '1')], { code: 'invalid_value', param: 'stream' }],
    ];
    for (const [what, parts, error] of cases) {
      expect([what, errorOf(await ask(parts, path))]).toMatchObject([what, { status: 400, ...error }]);
    }
    const json = await fixture.call(path, { model: 'whisper', file: 'x' });
    expect(errorOf(json)).toMatchObject({ status: 400, code: 'invalid_form' });
    const cut = formOf(good).subarray(0, -8);
    const broken = await fixture.call(path, cut, { 'content-type': formType() });
    expect(errorOf(broken)).toMatchObject({ status: 400, code: 'invalid_form' });
    for (const parts of [[FILE], [FILE, text('model', 'gpt-4o-transcribe')]]) {
      expect(errorOf(await ask(parts, path))).toMatchObject({ status: 404, code: 'model_not_found' });
    }
    expect(fixture.mock.requests).toEqual([]);
  });

  it.each([
    ['FastAPI’s', 404, { detail: 'Not Found' }],
    ['a text', 405, 'no'],
  ])('%s error without the route is one in OpenAI’s form', async (_, status, body) => {
    fixture = await open();
    fixture.mock.answer((_request, response) => sendJson(response, status, body));
    const answer = await ask([MODEL, FILE], path);
    expect(errorOf(answer)).toMatchObject({ status: 404, code: 'audio_not_served' });
    expect(errorOf(answer).message).toContain(path);
  });
});

describe('transcriptions', () => {
  it('has fields of its own, lists too', async () => {
    fixture = await open();
    const own = [
      text('timestamp_granularities[]', 'word'),
      text('timestamp_granularities[]', 'segment'),
      text('include[]', 'logprobs'),
      text('chunking_strategy', 'auto'),
      text('hotwords', 'Zoë'),
    ];
    expect((await ask([MODEL, FILE, ...own])).status).toBe(200);
    const [request] = fixture.mock.requests;
    const got = request && (await partsGot(request));
    expect(got).toEqual([
      { name: 'model', text: 'whisper' },
      ...own.map(({ name, content }) => ({ name, text: content })),
      FILE_GOT,
    ]);
    for (const part of [text('include[]', 'all'), text('chunking_strategy', '{}')]) {
      const { status, param } = errorOf(await ask([MODEL, FILE, part]));
      expect([status, param]).toEqual([400, part.name]);
    }
    const { status } = await ask([MODEL, FILE, ...own.slice(0, 1)], TRANSLATE);
    expect(status).toBe(400);
  });

  it('an error in OpenAI’s form passes as it is', async () => {
    fixture = await open();
    const error = { message: 'no such model', type: 'invalid_request_error', code: 'x' };
    fixture.mock.answer((_, response) => sendJson(response, 404, { error }));
    expect(errorOf(await ask([MODEL, FILE]))).toMatchObject({ status: 404, ...error });
  });

  it('a missing model of the server keeps the server’s words', async () => {
    fixture = await open();
    const detail = "Model 'whisper' is not installed locally.";
    fixture.mock.answer((_, response) => sendJson(response, 404, { detail }));
    expect(errorOf(await ask([MODEL, FILE]))).toMatchObject({ status: 404, code: 'upstream_error', message: detail });
  });

  it('streams events, and knows the last one', async () => {
    fixture = await open();
    const event = (value: object): string => `data: ${JSON.stringify(value)}\n\n`;
    const usage = { type: 'tokens', input_tokens: 14, output_tokens: 2, total_tokens: 16 };
    const whole =
      event({ type: 'transcript.text.delta', delta: 'one' }) +
      event({ type: 'transcript.text.delta', delta: ' two' }) +
      event({ type: 'transcript.text.done', text: 'one two', usage });
    fixture.mock.answer((_, response) => {
      startEvents(response);
      response.end(whole);
    });
    const settled = fixture.nextUsage();
    const streamed = await ask([MODEL, FILE, text('stream', 'true')]);
    expect([streamed.status, streamed.body]).toEqual([200, whole]);
    expect(await settled).toMatchObject({
      stream: true,
      promptTokens: 14,
      completionTokens: 2,
      estimated: false,
      outcome: 'ok',
    });
    fixture.mock.answer((_, response) => {
      startEvents(response);
      response.end(event({ type: 'transcript.text.delta', delta: 'one' }));
    });
    const cut = await ask([MODEL, FILE, text('stream', 'true')]);
    expect(cut.body).toContain('"code":"upstream_died"');
  });

  it('a large file is checked in a thread, and passes whole', async () => {
    fixture = await open();
    const content = Buffer.alloc(5 * 1024 * 1024, 'RIFF\r\n--');
    expect((await ask([MODEL, { ...FILE, content }])).status).toBe(200);
    const [request] = fixture.mock.requests;
    const got = request && (await partsGot(request));
    expect(got?.at(-1)?.bytes === content.toString('hex')).toBe(true);
    const tooLarge = await fixture.call(TRANSCRIBE, Buffer.alloc(33 * 1024 * 1024), { 'content-type': formType() });
    expect(errorOf(tooLarge)).toMatchObject({ status: 413, code: 'body_too_large' });
    await expect.poll(() => fixture.port.stats()).toMatchObject({ bodyBytes: 0 });
  });

  it('is the same however the request is cut', async () => {
    fixture = await open();
    const form = formOf([MODEL, FILE, text('prompt', 'x')]);
    const head =
      `POST ${TRANSCRIBE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n` +
      `content-type: ${formType()}\r\ntransfer-encoding: chunked\r\n\r\n`;
    const chunks = [...form].map((byte) => Buffer.concat([Buffer.from('1\r\n'), Buffer.of(byte), Buffer.from('\r\n')]));
    const answer = await fixture.raw(Buffer.concat([Buffer.from(head), ...chunks, Buffer.from('0\r\n\r\n')]));
    expect(answer).toMatch(/^HTTP\/1.1 200 /);
    const [request] = fixture.mock.requests;
    expect(request && (await partsGot(request))).toEqual([
      { name: 'model', text: 'whisper' },
      { name: 'prompt', text: 'x' },
      FILE_GOT,
    ]);
  });

  it('no model of the host stands in, no cache keeps it, and a spent budget ends it', async () => {
    fixture = await open({
      defaultModel: 'whisper-big',
      budget: { requests: 2 },
      cache: { requests: 'all', ttlMs: 60_000 },
    });
    for (const _ of [1, 2]) expect((await ask([MODEL, FILE])).status).toBe(200);
    expect(fixture.mock.requests).toHaveLength(2);
    expect(errorOf(await ask([MODEL, FILE]))).toMatchObject({ status: 429, code: 'budget_spent' });
    expect((await ask([FILE])).status).toBe(404);
    expect(fixture.mock.requests).toHaveLength(2);
  });

  it('long sounds count as work in the queue of a busy server', async () => {
    fixture = await bridgeFixture({ upstream: async (mock) => ({ ...mock.target, models: ['whisper'], slots: 1 }) });
    const order: string[] = [];
    const held: ServerResponse[] = [];
    fixture.mock.answer((request, response) => {
      order.push(request.bytes.length > 100_000 ? 'long' : 'short');
      held.push(response);
    });
    const waiting = (count: number) =>
      expect
        .poll(() => {
          const metrics = fixture.bridge.metrics();
          const gauge = metrics.find(({ name }) => name === 'neurovisor_model_queue_waiting');
          return gauge?.samples()[0]?.value;
        })
        .toBe(count);
    const path = join(fixture.dir, 'other.sock');
    await fixture.bridge.attach({ sandboxId: 'other', socketPath: path });
    const headers = { 'content-type': formType() };
    const long = formOf([MODEL, { ...FILE, content: Buffer.alloc(1024 * 1024) }]);
    const calls = [1, 2, 3].map(() => fixture.call(TRANSCRIBE, long, headers));
    await waiting(2);
    for (const _ of [1, 2, 3, 4]) calls.push(call(path, TRANSCRIBE, formOf([MODEL, FILE]), headers));
    await waiting(6);
    for (let count = 0; count < 7; count += 1) {
      await expect.poll(() => held.length).toBe(count + 1);
      const usage = { type: 'duration', seconds: 1 };
      sendJson(held[count] as ServerResponse, 200, { text: 'x', usage });
    }
    for (const { status } of await Promise.all(calls)) expect(status).toBe(200);
    expect(order).toEqual(['long', ...Array.from({ length: 4 }, () => 'short'), 'long', 'long']);
  });

  it('a guest that leaves in its upload asks no server', async () => {
    fixture = await open();
    const socket = connect(fixture.socketPath);
    socket.write(
      `POST ${TRANSCRIBE} HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\ncontent-type: ${formType()}\r\n\r\n`,
    );
    socket.write(formOf([MODEL, FILE]));
    await expect.poll(() => fixture.port.stats().bodyBytes).toBeGreaterThan(0);
    socket.destroy();
    const left = { cancelled: 1, inFlight: 0, bodyBytes: 0 };
    await expect.poll(() => fixture.port.stats()).toMatchObject(left);
    expect(fixture.mock.requests).toEqual([]);
  });

  it('a guest that leaves in its answer ends the server’s work', async () => {
    fixture = await open();
    fixture.mock.answer((_, response) => {
      response.writeHead(200, { 'content-type': 'text/vtt' });
      response.write('WEBVTT\n');
    });
    const arrived = fixture.mock.next();
    const settled = fixture.nextUsage();
    const asked = fixture.open(TRANSCRIBE, formOf([MODEL, FILE]), { 'content-type': formType() });
    await asked.until('WEBVTT');
    asked.abort();
    await (await arrived).aborted;
    expect(await settled).toMatchObject({ outcome: 'cancelled' });
    await expect.poll(() => fixture.port.stats()).toMatchObject({ inFlight: 0, bodyBytes: 0 });
  });
});

it('a hosted model gets no sound without leave, and the log has neither sound nor transcript', async () => {
  const world = await auditedBridge({ content: 'full' });
  fixture = world.fixture;
  try {
    expect(errorOf(await ask([text('model', 'hosted'), FILE]))).toMatchObject({ status: 403, code: 'model_hosted' });
    world.upstream.answer((_, response) => {
      startEvents(response);
      response.end(delta('secret words') + finish);
    });
    const parts = [text('model', 'm1'), FILE, text('prompt', 'Zoë'), text('stream', 'true')];
    expect((await ask(parts)).body).toContain('secret words');
    expect(world.upstream.requests).toHaveLength(1);
    const records = await world.records(2);
    expect(records.map(({ call }) => call)).toEqual(['MODEL transcription', 'MODEL transcription']);
    const kept = await world.text('content');
    const sha256 = createHash('sha256').update(SOUND).digest('hex');
    expect(kept).toContain(`[audio/wav: ${SOUND.length} bytes, sha256 ${sha256}]`);
    expect(kept).toContain('Zoë');
    expect(kept).not.toMatch(/RIFF|secret words/);
  } finally {
    await world.close();
  }
});

for (const [name, find] of [
  ['Python', pythonOpenai],
  ['JavaScript', nodeOpenai],
] as const) {
  requires('generators', find()).describe(`OpenAI’s client for ${name}`, (client) => {
    it('gets transcripts and translations, plain, streamed and as subtitles', async () => {
      fixture = await open();
      const event = (value: object): string => `data: ${JSON.stringify(value)}\n\n`;
      fixture.mock.answer(async (request, response) => {
        const parts = await partsGot(request);
        const sent = Object.fromEntries(parts.map(({ name, text, bytes }) => [name, text ?? bytes]));
        const { response_format: format, stream, file } = sent;
        const said = `${request.path}: ${Buffer.from(file ?? '', 'hex').toString()}`;
        if (stream === 'true') {
          startEvents(response);
          response.end(
            event({ type: 'transcript.text.delta', delta: said }) + event({ type: 'transcript.text.done', text: said }),
          );
        } else if (format === 'srt') {
          response.writeHead(200, { 'content-type': 'text/plain' });
          response.end(`1\n${said}\n`);
        } else {
          const words = [{ word: sent['timestamp_granularities[]'] ?? 'none', start: 0, end: 1 }];
          sendJson(response, 200, { text: said, language: 'en', duration: 1, words });
        }
      });
      const forwarder = await forwardTo(fixture.socketPath);
      try {
        expect(await runScenario(client, forwarder.port, 'transcribed')).toEqual({
          plain: '/v1/audio/transcriptions: RIFF',
          words: ['word'],
          subtitles: '1\n/v1/audio/transcriptions: RIFF\n',
          streamed: '/v1/audio/transcriptions: RIFF',
          translated: '/v1/audio/translations: RIFF',
          refused: [400, 'field_refused', 'chunking_strategy'],
          unknown: [404, 'model_not_found'],
        });
      } finally {
        await forwarder[Symbol.asyncDispose]();
      }
    });
  });
}
