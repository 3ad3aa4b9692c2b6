/**
 * The bridge in front of real model servers: Ollama and llama.cpp's server, with a model of 135 million parameters. Runs
 * with `./neurovisor test --full`.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { modelsTest } from '../../src/cli/commands/models/servers.ts';
import type { UsageRecord } from '../../src/inference/bridge/bridge.ts';
import { detectUpstream } from '../../src/inference/bridge/upstream/detect.ts';
import { type Answered, type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { eventually } from '../support/eventually.ts';
import { isFullRun } from '../support/full-run.ts';
import { MODEL_APIS, type ModelApiName } from '../support/model-apis.ts';
import { llamaServerProgram, ollamaProgram } from '../support/model-server-programs.ts';
import { CONTEXT_TOKENS, type ModelServer, startLlamaServer, startOllama } from '../support/model-servers.ts';
import { requiresFullRun } from '../support/requires.ts';
import { testCli } from '../support/test-cli.ts';

const API_NAMES = Object.keys(MODEL_APIS) as ModelApiName[];
const CHAT = MODEL_APIS.chat;
const QUESTION = 'What is the capital of France? Answer in one short sentence.';
/** The model counts on and on. */
const COUNT = 'Count from 1 to 1000, one number after the other: 1, 2, 3,';
const ENDLESS = { text: COUNT, maxTokens: CONTEXT_TOKENS / 4 };
const SCHEMA = {
  type: 'object',
  properties: { city: { type: 'string', maxLength: 20 }, people: { type: 'integer', maximum: 99 } },
  required: ['city', 'people'],
};
const TOOL = {
  name: 'weather',
  description: 'The weather of a city.',
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
};
/** The model is too small to choose a tool: it has to repeat a call, or a schema leaves nothing else. */
const REPEAT = {
  text: 'Say this again, and nothing else:\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>',
};
const FORCED = {
  schema: {
    type: 'object',
    properties: {
      name: { type: 'string', enum: ['weather'] },
      arguments: { type: 'object', properties: { city: { type: 'string', enum: ['Paris'] } }, required: ['city'] },
    },
    required: ['name', 'arguments'],
  },
};
const WAYS: readonly (readonly [string, boolean])[] = [
  ['plain', false],
  ['streamed', true],
];

interface Kind {
  readonly name: string;
  readonly modelOwner: string;
  /** How it gets the model to call the tool. */
  readonly call: object;
  /** What the server does with a model that it does not have, and with more than its context. */
  readonly unknownModel: 200 | 404;
  readonly tooLong: 200 | 400;
}

const OLLAMA: Kind = {
  name: 'Ollama',
  modelOwner: 'library',
  call: FORCED,
  unknownModel: 404,
  // It drops what is too much.
  tooLong: 200,
};
const LLAMA: Kind = {
  name: 'llama.cpp',
  modelOwner: 'llamacpp',
  call: REPEAT,
  // It has one model, whatever a request names.
  unknownModel: 200,
  tooLong: 400,
};

requiresFullRun('model-servers', llamaServerProgram).describe('llama.cpp', (program) => {
  servesAllApis(LLAMA, () => startLlamaServer(program));

  describe('embeddings', () => {
    servesEmbeddings(() => startLlamaServer(program, 'embeddings'));
  });
});

const ollama = isFullRun() ? await ollamaProgram() : '';
requiresFullRun('model-servers', () => ollama).describe('Ollama', (program) => {
  servesAllApis(OLLAMA, () => startOllama(program));
  describe('embeddings', () => servesEmbeddings(() => startOllama(program)));
});

interface World {
  server(): ModelServer;
  bridge(): BridgeFixture;
  /** Each answer with its own record. */
  call(path: string, body: object): Promise<Answered & { readonly usage: UsageRecord }>;
}

function useServer(name: string, start: () => Promise<ModelServer>): World {
  let server: ModelServer | undefined;
  let bridge: BridgeFixture | undefined;
  beforeAll(async () => {
    server = await start();
    const upstream = { name, baseUrl: server.url };
    bridge = await bridgeFixture({ upstream: async () => upstream });
  });
  afterAll(async () => {
    await bridge?.close();
    await server?.close();
  });
  const there = <T>(value: T | undefined): T => {
    if (value === undefined) throw new Error('not started');
    return value;
  };
  const call: World['call'] = async (path, body) => {
    const settled = there(bridge).nextUsage();
    const answer = await there(bridge).call(path, body);
    return { ...answer, usage: await settled };
  };
  return { server: () => there(server), bridge: () => there(bridge), call };
}

function servesAllApis(kind: Kind, start: () => Promise<ModelServer>): void {
  const world = useServer(kind.name, start);
  const question = (more: object = {}, stream = false) => ({
    model: world.server().model,
    text: QUESTION,
    maxTokens: 24,
    stream,
    ...more,
  });
  const asked = async (api: ModelApiName, more: object = {}, stream = false) => {
    const { path, body, read } = MODEL_APIS[api];
    const answer = await world.call(path, body(question(more, stream)));
    expect(answer).toMatchObject({ status: 200, broken: false });
    return { ...read(answer.body, stream), usage: answer.usage };
  };
  const direct = async (more: object = {}) => {
    const { status, text } = await world.server().ask(CHAT.path, CHAT.body(question(more)));
    expect(status).toBe(200);
    return CHAT.read(text, false);
  };

  let ticks: Promise<number> | undefined;
  /** Processor time of the whole answer that is left early. */
  const wholeTicks = (): Promise<number> => {
    ticks ??= (async () => {
      const before = world.server().cpuTicks();
      const { completionTokens } = await direct(ENDLESS);
      expect(completionTokens).toBe(ENDLESS.maxTokens);
      return world.server().cpuTicks() - before;
    })();
    return ticks;
  };

  it('is found at its port, with its owner and its models', async () => {
    const { url, model } = world.server();
    const found = await detectUpstream({ places: [{ name: kind.name, baseUrl: url }] });
    const { modelOwner } = kind;
    expect(found).toMatchObject({ models: [model], modelOwner, baseUrl: url });
    expect(found?.owner).toBeDefined();
  });

  it('`neurovisor models test` gets a token of it, and sees its APIs', async () => {
    const { url, model } = world.server();
    const env = { NEUROVISOR_UPSTREAM: url, NEUROVISOR_HOME: world.bridge().dir };
    const { cli, stdout } = testCli({ json: true, env });
    expect(await modelsTest(cli, [])).toBe(0);
    const dialects = expect.arrayContaining(['chat', 'text', 'responses', 'messages']);
    const firstTokenMs = expect.any(Number);
    expect(JSON.parse(stdout())).toMatchObject([{ model, firstTokenMs, dialects, error: null }]);
  });

  it('its models are listed in the forms of all APIs', async () => {
    const { model } = world.server();
    const listed = async (path: string, headers = {}) =>
      JSON.parse((await world.bridge().call(path, undefined, headers)).body);
    const [only, ...others] = (await listed('/v1/models')).data;
    expect([only.id, only.owned_by, others]).toEqual([model, kind.modelOwner, []]);
    const anthropic = await listed('/v1/models', { 'anthropic-version': '2023-06-01' });
    expect(anthropic.data).toMatchObject([{ id: model, type: 'model' }]);
    expect((await listed('/api/tags')).models).toMatchObject([{ model }]);
  });

  describe.each(API_NAMES)('%s', (api) => {
    it.each(WAYS)('%s: the text and the usage that the server gives', async (_, stream) => {
      const own = await direct();
      const { usage, text, promptTokens, completionTokens } = await asked(api, {}, stream);
      expect(text).toBe(own.text);
      expect(text).not.toBe('');
      const counted = { promptTokens: own.promptTokens, completionTokens: own.completionTokens };
      expect({ promptTokens, completionTokens }).toEqual(counted);
      expect(usage).toMatchObject({ ...counted, estimated: false, outcome: 'ok', stream });
    });

    it.each(WAYS)('%s: an answer that its limit ends says so', async (_, stream) => {
      const { finish, completionTokens } = await asked(api, { maxTokens: 3 }, stream);
      expect(completionTokens).toBe(3);
      expect(finish).toMatch(/^(?:length|max_tokens|max_output_tokens)$/);
    });

    it.each(WAYS)('%s: an answer obeys a JSON Schema', async (_, stream) => {
      const { text } = await asked(api, { schema: SCHEMA, maxTokens: 200 }, stream);
      const whole = { city: expect.any(String), people: expect.any(Number) };
      expect(JSON.parse(text)).toEqual(whole);
    });

    it.each(WAYS)('%s: a call of a tool', async (_, stream) => {
      const { calls } = await asked(api, { ...kind.call, tool: TOOL, maxTokens: 60 }, stream);
      expect(calls).toEqual([{ name: 'weather', input: { city: 'Paris' } }]);
    });

    it('leaving in mid-stream ends the work of the server', async () => {
      const whole = await wholeTicks();
      const server = world.server();
      const { path, body, textMark } = MODEL_APIS[api];
      const settled = world.bridge().nextUsage();
      const before = server.cpuTicks();
      const opened = world.bridge().open(path, body(question(ENDLESS, true)));
      await opened.until(textMark);
      opened.abort();
      const usage = await settled;
      expect(usage).toMatchObject({ outcome: 'cancelled' });
      expect(usage.completionTokens).toBeGreaterThan(0);
      await eventually(async () => expect(await server.isComputing()).toBe(false));
      expect(server.cpuTicks() - before).toBeLessThan(whole / 2);
    });

    it.each(WAYS)('%s: a model that the server does not have', async (_, stream) => {
      const { path, body, errorOf } = MODEL_APIS[api];
      world.bridge().port.setPolicy({ aliases: { gone: 'gone:latest' } });
      const answer = await world.call(path, body(question({ model: 'gone' }, stream)));
      world.bridge().port.setPolicy({});
      expect(answer.status).toBe(kind.unknownModel);
      if (answer.status !== 200) expect(errorOf(answer.body)).toMatch(/gone/);
    });

    it.each(WAYS)('%s: more than the context holds', async (_, stream) => {
      const { path, body, errorOf } = MODEL_APIS[api];
      const text = 'word '.repeat(2 * CONTEXT_TOKENS);
      const long = body(question({ text, maxTokens: 3 }, stream));
      const { usage, ...answer } = await world.call(path, long);
      expect(answer.status).toBe(kind.tooLong);
      if (answer.status === 200) expect(usage.promptTokens).toBeLessThanOrEqual(CONTEXT_TOKENS);
      else {
        expect(errorOf(answer.body)).toMatch(/context/);
        expect(usage).toMatchObject({ promptTokens: 0, completionTokens: 0 });
      }
    });
  });

  it.each(WAYS)('%s: a text completion', async (_, stream) => {
    const { model } = world.server();
    const body = { model, prompt: 'The capital of France is', temperature: 0, max_tokens: 8 };
    const answer = await world.call('/v1/completions', { ...body, stream });
    expect(answer.status).toBe(200);
    expect(answer.body).toMatch(/Paris/);
    const counted = { completionTokens: 8, estimated: false, outcome: 'ok' };
    expect(answer.usage).toMatchObject(counted);
  });

  it('a text completion that is left in mid-stream is counted', async () => {
    const { model } = world.server();
    const settled = world.bridge().nextUsage();
    const body = { model, prompt: COUNT, temperature: 0, max_tokens: 800, stream: true };
    const more = { stream_options: { include_usage: true } };
    const opened = world.bridge().open('/v1/completions', { ...body, ...more });
    await opened.until('"text":" ');
    opened.abort();
    const { promptTokens, completionTokens, outcome } = await settled;
    expect(outcome).toBe('cancelled');
    expect(promptTokens).toBeGreaterThan(0);
    expect(completionTokens).toBeGreaterThan(0);
  });

  it('max_completion_tokens ends an answer', async () => {
    const body = CHAT.body(question({ maxTokens: undefined }));
    const limited = { ...body, max_completion_tokens: 3 };
    const { body: text } = await world.call(CHAT.path, limited);
    expect(CHAT.read(text, false)).toMatchObject({ completionTokens: 3, finish: 'length' });
  });

  it('the result of a tool goes back with its call', async () => {
    const { model } = world.server();
    const input = { city: 'Paris' };
    const { name, description, parameters } = TOOL;
    const tools = [{ name, description, input_schema: parameters }];
    const { path, read } = MODEL_APIS.messages;
    const promptFor = async (result: string): Promise<number> => {
      const messages = [
        { role: 'user', content: 'How is the weather in Paris?' },
        { role: 'assistant', content: [{ type: 'tool_use', id: 'c1', name, input }] },
        { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'c1', content: result }] },
      ];
      const body = { model, messages, tools, max_tokens: 4, temperature: 0 };
      const answer = await world.call(path, body);
      expect(answer.status).toBe(200);
      return read(answer.body, false).promptTokens;
    };
    const [short, long] = [await promptFor('sunny'), await promptFor(' sunny'.repeat(31))];
    expect(long - short).toBeGreaterThanOrEqual(25);
    expect(long - short).toBeLessThan(40);
  });

  it('an answer tells no cache hits', async () => {
    for (let i = 0; i < 2; i += 1) {
      const { body } = await world.call(CHAT.path, CHAT.body(question()));
      expect(body).not.toMatch(/"(?:cached_tokens|cache_n|prompt_n)"\s*:\s*[1-9]/);
    }
  });

  it('a server that dies in mid-stream is an error, and 503 from then on', async () => {
    const own = await start();
    const target = { name: kind.name, baseUrl: own.url };
    const fixture = await bridgeFixture({ upstream: async () => target });
    try {
      const { path, body, textMark } = MODEL_APIS.messages;
      const endless = body(question(ENDLESS, true));
      const opened = fixture.open(path, endless);
      await opened.until(textMark);
      await own.kill();
      await opened.ended;
      expect(opened.text()).toContain('event: error');
      expect(opened.text()).not.toContain('message_stop');
      const after = await fixture.call(path, body(question()));
      expect(after.status).toBe(503);
    } finally {
      await fixture.close();
      await own.close();
    }
  });
}

function servesEmbeddings(start: () => Promise<ModelServer>): void {
  const world = useServer('embeddings', start);

  it('vectors are those that the server gives, in both APIs, and are counted', async () => {
    const { model } = world.server();
    const input = ['hello', 'world'];
    const own = JSON.parse((await world.server().ask('/v1/embeddings', { model, input })).text);
    const vectors = own.data.map(({ embedding }: { embedding: readonly number[] }) => embedding);
    expect(vectors.map(({ length }: readonly number[]) => length)).toEqual([576, 576]);
    const openai = await world.call('/v1/embeddings', { model, input });
    expect(JSON.parse(openai.body).data).toMatchObject(own.data);
    expect(openai.usage).toMatchObject({
      promptTokens: own.usage.prompt_tokens,
      completionTokens: 0,
      estimated: false,
    });
    const ollama = await world.call('/api/embed', { model, input });
    expect(JSON.parse(ollama.body).embeddings).toEqual(vectors);
  });
}
