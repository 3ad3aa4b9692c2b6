/** Recording and playback over a real bridge: the guest's answers, and the contents of the cassette. */
import { mkdtemp, readdir, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Log, silentLog } from '../../src/base/log.ts';
import { RuntimeTape } from '../../src/host/runtime/model-servers/tape.ts';
import type { Upstream } from '../../src/host/runtime/upstream.ts';
import { cassetteText, parseCassette } from '../../src/inference/bridge/tape/cassette.ts';
import { readCassette, requireCassettePlace, writeCassette } from '../../src/inference/bridge/tape/cassette-file.ts';
import { Player } from '../../src/inference/bridge/tape/player.ts';
import { Recorder } from '../../src/inference/bridge/tape/recorder.ts';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { formOf, formType } from '../support/forms.ts';
import {
  type Answer,
  completion,
  delta,
  done,
  finish,
  sendJson,
  startEvents,
  usageEvent,
} from '../support/mock-upstream.ts';

const CHAT = '/v1/chat/completions';
const MESSAGES = '/v1/messages';
const chat = (text: string, more: object = {}) => ({
  model: 'm1',
  messages: [{ role: 'user', content: text }],
  ...more,
});
const message = (text: string, more: object = {}) => ({ ...chat(text, more), max_tokens: 9 });

const fixtures: BridgeFixture[] = [];
let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-tape-'));
});
afterEach(async () => {
  for (const one of fixtures.splice(0)) await one.close();
  await rm(dir, { recursive: true });
});

type Options = NonNullable<Parameters<typeof bridgeFixture>[0]>;
async function open(options: Options): Promise<BridgeFixture> {
  const made = await bridgeFixture(options);
  fixtures.push(made);
  return made;
}

interface Recorded {
  readonly results: unknown[];
  readonly text: string;
}

/** The answers of `ask` during the recording, and the cassette. */
async function recorded(
  answer: Answer | null,
  ask: (fixture: BridgeFixture) => Promise<unknown[]>,
  options: Options = {},
): Promise<Recorded> {
  const tape = new Recorder();
  const fixture = await open({ ...options, tape });
  if (answer !== null) fixture.mock.answer(answer);
  const results = await ask(fixture);
  await fixture.close();
  return { results, text: cassetteText({ defaultModel: 'm1', exchanges: tape.exchanges() }) };
}

/** A bridge that answers only from the cassette. */
async function played(text: string): Promise<{ fixture: BridgeFixture; player: Player }> {
  const player = new Player(parseCassette(Buffer.from(text)));
  const fixture = await open({ tape: player, upstream: async () => player.target });
  return { fixture, player };
}

const streamed: Answer = (_, response) => {
  startEvents(response);
  response.write(delta('one '));
  response.write(delta('two'));
  response.end(finish + usageEvent + done);
};

describe('a replay', () => {
  it('and a recording refuse audio, which is no text', async () => {
    const fixture = await open({ tape: new Recorder() });
    const asked = { model: 'm1', input: 'x', voice: 'alloy' };
    const form = formOf([
      { name: 'model', content: 'm1' },
      { name: 'file', fileName: 'a.wav', content: 'RIFF' },
    ]);
    for (const refused of [
      await fixture.call('/v1/audio/speech', asked),
      await fixture.call('/v1/audio/transcriptions', form, { 'content-type': formType() }),
    ]) {
      expect([refused.status, JSON.parse(refused.body)]).toMatchObject([
        400,
        { error: { code: 'audio_not_recorded' } },
      ]);
    }
  });

  it('refuses a model that the sandbox may not use, like a model server', async () => {
    const { text } = await recorded(null, async (f) => [
      (await f.call(CHAT, chat('a'))).status,
      (await f.call(CHAT, chat('a', { model: 'm2' }))).status,
    ]);
    const player = new Player(parseCassette(Buffer.from(text)));
    const fixture = await open({
      tape: player,
      upstream: async () => player.target,
      policy: { allowModels: ['m2'], aliases: { mine: 'm2' } },
    });
    const refused = await fixture.call(CHAT, chat('a'));
    expect(refused.status).toBe(404);
    expect(refused.body).toContain('Available: m2, mine');
    expect((await fixture.call(CHAT, chat('a', { model: 'm2' }))).status).toBe(200);
  });
});

describe('record, then replay', () => {
  const asks: Record<string, (fixture: BridgeFixture) => Promise<unknown[]>> = {
    'OpenAI, plain': async (f) => [(await f.call(CHAT, chat('a'))).body],
    'OpenAI, streamed': async (f) => [(await f.call(CHAT, chat('a', { stream: true }))).body],
    'OpenAI, streamed with usage': async (f) => [
      (await f.call(CHAT, chat('a', { stream: true, stream_options: { include_usage: true } }))).body,
    ],
    'Anthropic, plain': async (f) => [(await f.call(MESSAGES, message('a'))).body],
    'Anthropic, streamed': async (f) => [(await f.call(MESSAGES, message('a', { stream: true }))).body],
    'Ollama, plain': async (f) => [(await f.call('/api/chat', chat('a', { stream: false }))).body],
    'Ollama, streamed': async (f) => [(await f.call('/api/chat', chat('a'))).body],
    'Responses, streamed': async (f) => [
      (await f.call('/v1/responses', { model: 'm1', input: 'a', stream: true })).body,
    ],
    embeddings: async (f) => [(await f.call('/v1/embeddings', { model: 'm1', input: 'a' })).body],
  };
  it.each(Object.entries(asks))('%s: the guest gets the same bytes', async (name, ask) => {
    const answer: Answer | null = name.includes('streamed') ? streamed : null;
    const { results, text } = await recorded(answer, ask);
    const { fixture, player } = await played(text);
    const again = await ask(fixture);
    expect(again.map(withoutTimes)).toEqual(results.map(withoutTimes));
    expect(fixture.mock.requests).toEqual([]);
    expect(fixture.mock.modelListCount()).toBe(0);
    expect([player.playedCount, player.missingCount]).toEqual([1, 0]);
  });

  it('recording changes nothing for the guest or the model server', async () => {
    const bytes = '{"model":"m1",\n"messages":[], "seed":18446744073709551615}';
    const ask = async (f: BridgeFixture) => {
      const { body, headers } = await f.call(CHAT, bytes);
      return [body, headers['content-type'], f.mock.requests[0]?.body];
    };
    const plain = await ask(await open({}));
    expect((await recorded(null, ask)).results).toEqual(plain);
    expect(plain[2]).toBe(bytes);
  });

  it('several answers to one request are played in the recorded order, then no more', async () => {
    let count = 0;
    const numbered: Answer = (_, response) => {
      count += 1;
      sendJson(response, 200, completion(`answer ${count}`));
    };
    const ask = async (f: BridgeFixture) => {
      const bodies: unknown[] = [];
      for (let i = 0; i < 3; i += 1) bodies.push((await f.call(CHAT, chat('a'))).body);
      return bodies;
    };
    const { results, text } = await recorded(numbered, ask);
    const { fixture, player } = await played(text);
    expect((await ask(fixture)).map(withoutTimes)).toEqual(results.map(withoutTimes));
    const fourth = await fixture.call(CHAT, chat('a'));
    expect(fourth.status).toBe(400);
    expect(fourth.body).toContain('3 answers, which were all played already');
    expect(player.missingCount).toBe(1);
  });

  it('a tool call: the ids of two recordings differ, and the cassettes do not', async () => {
    const run = (id: string) => {
      const call = { id, type: 'function', function: { name: 'f', arguments: '{}' } };
      const tools: Answer = (request, response) =>
        sendJson(
          response,
          200,
          request.body.includes('"tool"')
            ? completion('done')
            : {
                id: `chatcmpl-${id}`,
                created: Number(id.length) * 1000 + Math.trunc(Math.random() * 1000),
                choices: [{ message: { role: 'assistant', tool_calls: [call] } }],
              },
        );
      return recorded(tools, agent);
    };
    const agent = async (f: BridgeFixture): Promise<unknown[]> => {
      const first = JSON.parse((await f.call(CHAT, chat('a'))).body) as {
        choices: [{ message: { tool_calls: [{ id: string }] } }];
      };
      const [{ message: asked }] = first.choices;
      const result = { role: 'tool', tool_call_id: asked.tool_calls[0].id, content: '4' };
      const messages = [{ role: 'user', content: 'a' }, asked, result];
      const last = await f.call(CHAT, { model: 'm1', messages });
      return [last.status];
    };
    const one = await run('call_QWERTY');
    const two = await run('call_123');
    expect(two.text).toBe(one.text);
    expect(one.text).not.toContain('QWERTY');
    const { fixture, player } = await played(one.text);
    expect(await agent(fixture)).toEqual([200]);
    expect(player.missingCount).toBe(0);
  });

  it('Responses: an answer that continues another has its id again', async () => {
    const ask = async (f: BridgeFixture): Promise<unknown[]> => {
      const first = JSON.parse((await f.call('/v1/responses', { model: 'm1', input: 'a' })).body) as { id: string };
      const more = { model: 'm1', input: 'b', previous_response_id: first.id };
      return [first.id, (await f.call('/v1/responses', more)).status];
    };
    const { results, text } = await recorded(null, ask);
    const { fixture, player } = await played(text);
    expect(await ask(fixture)).toEqual(results);
    expect(player.missingCount).toBe(0);
  });

  it('errors of the model server are played, and an answer that broke off breaks off', async () => {
    let count = 0;
    const failing: Answer = (_, response) => {
      count += 1;
      if (count === 1) return sendJson(response, 429, { error: { message: 'slow down' } });
      startEvents(response);
      response.write(delta('half'));
      setImmediate(() => response.destroy());
    };
    const ask = async (f: BridgeFixture) => {
      const first = await f.call(CHAT, chat('a', { stream: true }));
      const second = await f.call(CHAT, chat('a', { stream: true }));
      return [first.status, first.body, second.status, second.body];
    };
    const { results, text } = await recorded(failing, ask);
    expect(results[3]).toContain('half');
    expect(results[3]).toContain('upstream_died');
    const { fixture } = await played(text);
    const [status, body, , half] = await ask(fixture);
    expect([status, body]).toEqual(results.slice(0, 2));
    expect(half).toBe(String(results[3]).replace('mock ended', 'The cassette ended'));
  });

  it('a model that does not exist is refused again; a model server that does not answer is not recorded', async () => {
    const ask = async (f: BridgeFixture) => {
      const { status, body } = await f.call(CHAT, chat('a', { model: 'nothing' }));
      return [status, body];
    };
    const { results, text } = await recorded(null, ask);
    expect(results[0]).toBe(404);
    const { fixture } = await played(text);
    expect(await ask(fixture)).toEqual(results);

    const tape = new Recorder();
    const lost = await open({ tape });
    lost.mock.answer((_, response) => response.destroy());
    expect((await lost.call(CHAT, chat('a'))).status).toBeGreaterThanOrEqual(502);
    expect([tape.exchanges(), tape.unansweredCount]).toEqual([[], 1]);
  });

  it('lists the models of the cassette', async () => {
    const { text } = await recorded(null, async (f) => [await f.call(CHAT, chat('a'))]);
    const { fixture } = await played(text);
    const { data } = JSON.parse((await fixture.call('/v1/models')).body) as { data: { id: string }[] };
    expect(data.map(({ id }) => id)).toEqual(['m1']);
  });

  it('each port plays from the beginning', async () => {
    const { text } = await recorded(null, async (f) => [await f.call(CHAT, chat('a'))]);
    const { player } = await played(text);
    for (let i = 0; i < 2; i += 1) {
      const fixture = await open({ tape: player, upstream: async () => player.target });
      expect((await fixture.call(CHAT, chat('a'))).status).toBe(200);
    }
  });
});

describe('a request that is not in the cassette', () => {
  it.each([
    ['OpenAI', CHAT, chat, { error: { code: 'not_in_cassette' } }],
    ['Anthropic', MESSAGES, message, { type: 'error' }],
  ] as const)('%s: is refused in its form, with the difference', async (_name, path, body, form) => {
    const { text } = await recorded(null, async (f) => [
      await f.call(path, body('what is 2 + 2?')),
      await f.call(path, body('something else entirely', { temperature: 1, top_p: 0.5 })),
    ]);
    const { fixture, player } = await played(text);
    for (const stream of [false, true]) {
      const answer = await fixture.call(path, body('what is 2 + 3?', stream ? { stream } : {}));
      expect(answer.status).toBe(400);
      expect(JSON.parse(answer.body)).toMatchObject(form);
      expect(answer.body).toContain('nearest of 2 recorded requests is number 1');
    }
    expect(player.missing[0]).toMatchObject({
      sandboxId: 'sandbox-a',
      model: 'm1',
      difference: expect.stringContaining('messages[0].content: recorded "what is 2 + 2?", asked "what is 2 + 3?"'),
    });
    expect(player.missing[1]?.difference).toContain('stream: recorded false, asked true');
  });
});

describe('contents of a cassette', () => {
  it('no header and no key, whole or in part, whatever the server answers', async () => {
    const key = 'sk-host-secret-0123456789';
    const echo: Answer = (request, response) => {
      const { authorization } = request.headers;
      if (request.body.includes('"stream":true')) {
        startEvents(response);
        response.end(delta(`key ${authorization} sk-hos***6789`) + finish + done);
      } else sendJson(response, 401, { error: { message: `bad key ${authorization}` } });
    };
    const { text } = await recorded(
      echo,
      async (f) => [
        await f.call(CHAT, chat('a'), { authorization: 'Bearer guest-key', cookie: 'c=1' }),
        await f.call(CHAT, chat('b', { stream: true })),
      ],
      { apiKey: key },
    );
    for (const secret of ['sk-hos', 'guest-key', 'c=1', 'authorization']) {
      expect(text).not.toContain(secret);
    }
    expect(text).toContain('[removed]');
  });

  it('a bounded number of small requests', async () => {
    const tape = new Recorder(2_000);
    const port = tape.open();
    const ask = (i: number) => ({ ...chat(`${i}`), dialect: 'openai', operation: 'chat' });
    for (let i = 0; i < 5; i += 1) port.begin({ ...ask(i), stream: false, body: {} });
    expect(tape.unansweredCount).toBeLessThan(5);
    expect(() => tape.exchanges()).toThrow(/at most/);
  });

  it('nothing of requests beyond its size, not even their number', () => {
    const tape = new Recorder(100);
    const port = tape.open();
    const askedTwice = [1, 2].map((i) => {
      const asked = { ...chat('x'), dialect: 'openai', operation: 'chat' };
      const begun = port.begin({ ...asked, stream: false, body: {} });
      return begun.ok ? begun.value.answerId : i;
    });
    expect(askedTwice[0]).toBe(askedTwice[1]);
  });

  it('nothing beyond its size: then it is not written at all', async () => {
    const tape = new Recorder(2_000);
    const fixture = await open({ tape });
    fixture.mock.answer((_, response) => sendJson(response, 200, completion('x'.repeat(3_000))));
    expect((await fixture.call(CHAT, chat('a'))).status).toBe(200);
    expect(() => tape.exchanges()).toThrow(expect.objectContaining({ code: 'cassette_too_large' }));
  });

  it('the requests in order of arrival, including the guest’s disconnect', async () => {
    const tape = new Recorder();
    const fixture = await open({ tape });
    fixture.mock.answer((request, response) => {
      startEvents(response);
      response.write(delta('first'));
      if (!request.body.includes('"a"')) response.end(finish + done);
    });
    const opened = fixture.open(CHAT, chat('a', { stream: true }));
    await opened.until('first');
    await fixture.call(CHAT, chat('b', { stream: true }));
    opened.abort();
    await fixture.close();
    expect(tape.exchanges()).toMatchObject([
      { request: { body: { messages: [{ content: 'a' }] } }, answer: { cut: true } },
      { request: { body: { messages: [{ content: 'b' }] } }, answer: { events: [{}, {}, 'data: [DONE]'] } },
    ]);
  });
});

describe('files', () => {
  const cassette = { defaultModel: null, exchanges: [] };
  it('are written as a whole, readable only by their owner, and read again', async () => {
    const path = join(dir, 'a.json');
    await requireCassettePlace(path);
    await writeCassette(path, cassette);
    expect(await readCassette(path)).toEqual(cassette);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    await requireCassettePlace(path);
    await writeCassette(path, { ...cassette, defaultModel: 'm1' });
    expect(await readdir(dir)).toEqual(['a.json']);
  });

  it('a file that is no cassette is not replaced', async () => {
    const path = join(dir, 'agent.py');
    await writeFile(path, 'print(1)');
    await expect(requireCassettePlace(path)).rejects.toMatchObject({ code: 'cassette_invalid' });
    expect(await readFile(path, 'utf8')).toBe('print(1)');
  });

  it.each([
    ['missing', 'cassette_failed', async () => undefined],
    ['a directory', 'cassette_failed', (path: string) => symlink(dir, path)],
    [
      'huge',
      'cassette_too_large',
      async (path: string): Promise<void> => {
        await writeFile(path, '{');
        await truncate(path, 65 * 2 ** 20);
      },
    ],
    ['without an end', 'cassette_too_large', (path: string) => symlink('/dev/zero', path)],
    ['not JSON', 'cassette_invalid', (path: string) => writeFile(path, '{"neurovisorCassette": 1,')],
    ['deep', 'cassette_invalid', (path: string) => writeFile(path, '['.repeat(1e6))],
    ['of another version', 'cassette_invalid', (path: string) => writeFile(path, '{"neurovisorCassette": 2}')],
    ['another JSON', 'cassette_invalid', (path: string) => writeFile(path, '{"version": 1}')],
    [
      'with an unknown answer',
      'cassette_invalid',
      (path: string) =>
        writeFile(
          path,
          '{"neurovisorCassette":1,"defaultModel":null,"exchanges":[{"request":{"dialect":"x","operation":"y","model":null,"stream":false,"body":{}},"answer":{}}]}',
        ),
    ],
  ] as const)('%s: %s, with its path', async (_what, code, make) => {
    const path = join(dir, 'c.json');
    await make(path);
    await expect(readCassette(path)).rejects.toMatchObject({
      code,
      message: expect.stringContaining(path),
      remedy: expect.any(String),
    });
  });

  it('a missing directory is reported before anything is recorded', async () => {
    await expect(requireCassettePlace(join(dir, 'no', 'a.json'))).rejects.toMatchObject({ code: 'cassette_failed' });
  });
});

describe('RuntimeTape', () => {
  const logged: unknown[] = [];
  const log: Log = { ...silentLog, error: (...words) => logged.push(words) };
  async function targetOf(upstream: Upstream): Promise<NonNullable<Options['upstream']>> {
    const source = upstream.source(Promise.resolve(null));
    if (typeof source !== 'function') throw new Error('a cassette is one upstream');
    return source;
  }
  async function ask(tape: RuntimeTape | null, ...texts: string[]): Promise<number[]> {
    const fixture = await open({
      tape: tape?.tape,
      ...(tape?.upstream == null ? {} : { upstream: await targetOf(tape.upstream) }),
    });
    const statuses: number[] = [];
    for (const text of texts) statuses.push((await fixture.call(CHAT, chat(text))).status);
    await fixture.close();
    await tape?.close('m9');
    return statuses;
  }

  it('records over several runtimes of one process, and plays without a model server', async () => {
    const path = join(dir, 'c.json');
    const record = { mode: 'record', path } as const;
    await ask(await RuntimeTape.open(record, log), 'a');
    await ask(await RuntimeTape.open(record, log), 'b');
    expect((await readCassette(path)).exchanges).toHaveLength(2);
    const tape = await RuntimeTape.open({ mode: 'replay', path }, log);
    expect(tape?.upstream).toMatchObject({ needsModel: false, defaultModel: 'm9', models: ['m9', 'm1'] });
    expect(await ask(tape, 'a', 'b', 'c')).toEqual([200, 200, 400]);
    expect(logged).toEqual([['requests are not in the cassette', expect.objectContaining({ path, count: 1 })]]);
    expect(tape?.report()).toMatchObject({ mode: 'replay', path, answered: 2, unanswered: 1 });
  });

  it('without any answer, the cassette stays unchanged', async () => {
    const path = join(dir, 'd.json');
    await writeCassette(path, { defaultModel: 'old', exchanges: [] });
    await ask(await RuntimeTape.open({ mode: 'record', path }, log));
    expect((await readCassette(path)).defaultModel).toBe('old');
    expect(await RuntimeTape.open(null, log)).toBe(null);
  });
});

/** Omits times and the server's ids, which a cassette does not store. */
function withoutTimes(body: unknown): unknown {
  return String(body)
    .replaceAll(/"created":\d+/g, '"created":0')
    .replaceAll(/"created_at":(?:"[^"]+"|\d+)|"\w+_duration":\d+/g, '')
    .replaceAll(/"id":"(chatcmpl-)?[^"]*"/g, '"id":""');
}
