/** The engine as a process, with a real model if there is one. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { type Engine, type EngineOptions, startEngine } from '../../src/inference/engine/process.ts';
import { findModel } from '../support/model.ts';
import { requires } from '../support/requires.ts';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'engine-'));
});
afterAll(async () => {
  await rm(dir, { recursive: true });
});

let sockets = 0;
const start = (modelPath: string, more: Partial<EngineOptions> = {}): Promise<Engine> =>
  startEngine({
    modelPath,
    modelId: 'm',
    socketPath: join(dir, `${sockets++}.sock`),
    gpu: 'cpu',
    contextTokens: 1_024,
    log: silentLog,
    clock: systemClock,
    ...more,
  });

interface Answer {
  readonly choices: {
    readonly message: {
      readonly content: string;
      readonly tool_calls: { readonly function: { readonly name: string; readonly arguments: string } }[];
    };
    readonly text: string;
    readonly finish_reason: string;
  }[];
  readonly usage: { readonly prompt_tokens_details: { readonly cached_tokens: number } };
  readonly data: { readonly embedding: number[] }[];
}

function post(engine: Engine, path: string, body: object): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath: engine.socketPath, path: `/v1${path}`, method: 'POST' }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part;
      });
      response.on('end', () =>
        response.statusCode === 200 ? resolve(JSON.parse(text) as Answer) : reject(new Error(text)),
      );
    });
    sent.on('error', reject);
    sent.end(JSON.stringify({ model: 'm', ...body }));
  });
}

const alive = (pid: number): boolean => existsSync(`/proc/${pid}`);

describe('startEngine', () => {
  it('reports a missing model file, with a remedy', async () => {
    const engine = await start(join(dir, 'none.gguf'));
    await expect(engine.ready).rejects.toMatchObject({ code: 'model_missing' });
    expect(await engine.exited).toMatchObject({ code: 'model_missing' });
    expect((await engine.exited)?.remedy).toBeDefined();
    expect(existsSync(engine.socketPath)).toBe(false);
  });

  it.each([
    ['a file without the GGUF magic', 'hello'],
    ['a truncated GGUF file', 'GGUF\u0003\u0000\u0000\u0000'],
  ])('reports that %s is not a model', async (_name, content) => {
    const path = join(dir, 'bad.gguf');
    await writeFile(path, content);
    const engine = await start(path);
    await expect(engine.ready).rejects.toMatchObject({ code: 'model_invalid' });
    await engine.exited;
  });

  it('refuses a socket path that the kernel would truncate', async () => {
    const socketPath = join(dir, 'x'.repeat(120));
    await expect(start('m.gguf', { socketPath })).rejects.toMatchObject({ code: 'listen_failed' });
  });

  it('reports why it can’t listen', async () => {
    const socketPath = join(dir, 'nowhere', 'e.sock');
    await expect(start('m.gguf', { socketPath })).rejects.toMatchObject({ code: 'listen_failed' });
  });
});

describe('the engine process', () => {
  it('ends when its parent is killed', async () => {
    const script = `
      import { startEngine } from ${JSON.stringify(join(import.meta.dirname, '../../src/inference/engine/process.ts'))};
      import { systemClock } from ${JSON.stringify(join(import.meta.dirname, '../../src/base/clock.ts'))};
      import { silentLog } from ${JSON.stringify(join(import.meta.dirname, '../../src/base/log.ts'))};
      const engine = await startEngine({ modelPath: process.argv[1], modelId: 'm', log: silentLog,
        socketPath: process.argv[2], clock: systemClock, gpu: 'cpu' });
      process.stdout.write(String(engine.pid));
      await new Promise((resolve) => setInterval(resolve, 1e9));`;
    const socketPath = join(dir, 'orphan.sock');
    // A FIFO as the model: opening it blocks forever, like loading a very large model.
    const fifo = join(dir, 'model.fifo');
    execFileSync('mkfifo', [fifo]);
    const parent = spawn(process.execPath, ['--input-type=module', '-e', script, fifo, socketPath]);
    const [pid] = (await once(parent.stdout, 'data')) as [Buffer];
    expect(alive(Number(pid))).toBe(true);
    parent.kill('SIGKILL');
    await expect.poll(() => alive(Number(pid))).toBe(false);
    expect(existsSync(socketPath)).toBe(false);
  });
});

requires('model', findModel()).describe('the engine with a real model', (model) => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await start(model.path);
    await engine.ready;
  });
  afterAll(async () => {
    await engine.stop();
    expect(alive(engine.pid)).toBe(false);
    expect(existsSync(engine.socketPath)).toBe(false);
  });

  it('chats deterministically, and computes a known prefix only once', async () => {
    const body = { messages: [{ role: 'user', content: 'What is the capital of France?' }], max_tokens: 20 };
    const first = await post(engine, '/chat/completions', body);
    const second = await post(engine, '/chat/completions', body);
    expect(first.choices[0]?.message.content).toContain('Paris');
    expect(second.choices[0]?.message.content).toBe(first.choices[0]?.message.content);
    expect(second.usage.prompt_tokens_details.cached_tokens).toBeGreaterThan(10);
    const salted = await post(engine, '/chat/completions', { ...body, cache_salt: 'other' });
    expect(salted.usage.prompt_tokens_details.cached_tokens).toBe(0);
  });

  it('answers with JSON of the requested shape', async () => {
    const schema = {
      type: 'object',
      properties: {
        name: { type: 'string', maxLength: 20 },
        tags: { type: 'array', items: { enum: ['a', 'b'] }, minItems: 2, maxItems: 2 },
        more: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/more' }] },
      },
      required: ['name', 'tags', 'more'],
      $defs: { more: { type: 'object', properties: { n: { type: 'integer' } }, required: ['n'] } },
    };
    const { choices } = await post(engine, '/chat/completions', {
      messages: [{ role: 'user', content: 'Describe a cat.' }],
      response_format: { type: 'json_schema', json_schema: { name: 'cat', schema, strict: true } },
      max_tokens: 120,
    });
    expect(JSON.parse(choices[0]?.message.content ?? '')).toEqual({
      name: expect.any(String),
      tags: [expect.stringMatching(/^[ab]$/), expect.stringMatching(/^[ab]$/)],
      more: expect.toSatisfy((more) => more === null || Number.isInteger(more.n)),
    });
  });

  it('cuts JSON off at the token limit, and says so', async () => {
    const schema = { type: 'object', properties: { long: { type: 'string' } }, required: ['long'] };
    const { choices } = await post(engine, '/chat/completions', {
      messages: [{ role: 'user', content: 'Tell a very long story about many cats.' }],
      response_format: { type: 'json_schema', json_schema: { name: 'story', schema } },
      max_tokens: 30,
    });
    expect(choices[0]?.message.content).toMatch(/^\{"long": "[^"]+$/);
    expect(choices[0]?.finish_reason).toBe('length');
  });

  it('calls a tool with arguments from the question', async () => {
    const number = { type: 'number' };
    const tools = [
      {
        type: 'function',
        function: {
          name: 'multiply',
          description: 'Multiply two numbers.',
          parameters: { type: 'object', properties: { a: number, b: number }, required: ['a', 'b'] },
        },
      },
    ];
    const { choices } = await post(engine, '/chat/completions', {
      messages: [{ role: 'user', content: 'Multiply 12 by 7.' }],
      tools,
      tool_choice: 'required',
      max_tokens: 60,
    });
    const call = choices[0]?.message.tool_calls[0]?.function;
    expect(choices[0]?.finish_reason).toBe('tool_calls');
    expect([call?.name, JSON.parse(call?.arguments ?? '')]).toEqual(['multiply', { a: 12, b: 7 }]);
  });

  it('refuses a grammar that llama.cpp refuses, and keeps serving', async () => {
    const schema = { $ref: '#/$defs/a', $defs: { a: { anyOf: [{ $ref: '#/$defs/a' }, { type: 'null' }] } } };
    const messages = [{ role: 'user', content: 'x' }];
    const response_format = { type: 'json_schema', json_schema: { name: 'x', schema } };
    await expect(post(engine, '/chat/completions', { messages, response_format })).rejects.toThrow('bad_request');
    expect((await post(engine, '/completions', { prompt: 'x', max_tokens: 1 })).choices).toHaveLength(1);
  });

  it('serves more concurrent requests than it has slots', async () => {
    const answers = await Promise.all(
      ['a', 'b', 'c', 'd', 'e'].map((prompt) => post(engine, '/completions', { prompt, max_tokens: 4 })),
    );
    expect(answers.map((one) => one.choices[0]?.finish_reason)).toEqual(Array(5).fill('length'));
  });

  it('embeds similar texts as similar vectors', async () => {
    const input = ['The cat sleeps.', 'A kitten naps.', 'Stock markets fell.'];
    const { data } = await post(engine, '/embeddings', { input });
    const [cat, kitten, stocks] = data.map((one) => one.embedding);
    const dot = (a: number[] = [], b: number[] = []): number => a.reduce((sum, x, i) => sum + x * (b[i] ?? 0), 0);
    expect(dot(cat, cat)).toBeCloseTo(1, 4);
    expect(dot(cat, kitten)).toBeGreaterThan(dot(cat, stocks));
  });

  it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
    'survives a %s to the whole group: its parent decides when it ends',
    async (signal) => {
      process.kill(engine.pid, signal);
      const answer = await post(engine, '/completions', { prompt: 'one, two', max_tokens: 1 });
      expect(answer.choices).toHaveLength(1);
    },
  );

  it('reports when its process is killed', async () => {
    const other = await start(model.path);
    process.kill(other.pid, 'SIGKILL');
    expect(await other.exited).toMatchObject({ code: 'engine_crashed' });
    expect(existsSync(other.socketPath)).toBe(false);
    await other.stop();
  });

  it('uses another chat template if the file’s fails, and warns once', async () => {
    // The template's first tag is broken; all lengths and offsets stay unchanged.
    const bytes = await readFile(model.path);
    const at = bytes.indexOf('tokenizer.chat_template');
    bytes.write('{% bad', bytes.indexOf('{% for', at));
    const path = join(dir, 'broken-template.gguf');
    await writeFile(path, bytes);
    const warnings: string[] = [];
    const log = { ...silentLog, warn: (message: string) => void warnings.push(message) };
    const broken = await start(path, { log });
    try {
      await broken.ready;
      const { choices } = await post(broken, '/chat/completions', {
        messages: [{ role: 'user', content: 'What is the capital of France?' }],
        max_tokens: 8,
      });
      expect(choices[0]?.message.content).not.toBe('');
      expect(warnings).toEqual([
        expect.stringMatching(/^engine: the chat template "ChatML" is used: that of the file fails/),
      ]);
    } finally {
      await broken.stop();
      await rm(path);
    }
  });

  it('can be stopped while it loads', async () => {
    const leaving = new AbortController();
    const other = await start(model.path, { signal: leaving.signal });
    leaving.abort();
    expect(await other.exited).toBeNull();
    await expect(other.ready).rejects.toMatchObject({ code: 'engine_stopped' });
    expect(alive(other.pid)).toBe(false);
  });
});
