/** `neurovisor models ls|test` against scripted servers. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { modelsList, modelsTest } from '../../src/cli/commands/models/servers.ts';
import { messageEvents, sseOf } from '../support/messages.ts';
import {
  delta,
  done,
  finish,
  type MockUpstream,
  sendJson,
  startEvents,
  startMockUpstream,
} from '../support/mock-upstream.ts';
import { testCli } from '../support/test-cli.ts';

const KEY = 'sk-very-secret-key';
let cleanup: CleanupStack;
let dir: string;
let gpu: MockUpstream;
let cloud: MockUpstream;
let env: Record<string, string>;
beforeEach(async () => {
  cleanup = new CleanupStack();
  dir = await mkdtemp(join(tmpdir(), 'nv-cli-models-'));
  cleanup.push('directory', () => rm(dir, { recursive: true, force: true }));
  gpu = await startMockUpstream({ models: ['Qwen/Qwen3-8B', 'llama3'] });
  cloud = await startMockUpstream({ models: ['gpt-5-mini', 'gpt-9'] });
  cleanup.push('gpu', () => gpu.close());
  cleanup.push('cloud', () => cloud.close());
  for (const server of [gpu, cloud]) server.answer(speaksChat);
  const path = join(dir, 'models.toml');
  env = { NEUROVISOR_HOME: dir, CLOUD_KEY: KEY };
  await writeFile(
    path,
    `
    default = "qwen3"
    [upstreams.gpu]
    url = "${gpu.target.baseUrl}"
    concurrency = 8
    [upstreams.cloud]
    url = "${cloud.target.baseUrl}"
    hosted = true
    key = { env = "CLOUD_KEY" }
    [upstreams.down]
    url = "${await deadUrl()}"
    [models.qwen3]
    routes = [{ upstream = "gpu", model = "Qwen/Qwen3-8B", weight = 3 }]
    price = { input = 0.075, output = 0.3 }
    fallback = ["gpt-5-mini"]
    [models.gpt-5-mini]
    upstream = "cloud"
    [models.gone]
    upstream = "down"
  `,
  );
});
afterEach(() => cleanup.run());

const speaksChat: Parameters<MockUpstream['answer']>[0] = ({ path, body }, response) => {
  if (path.endsWith('/messages') || path.endsWith('/responses')) {
    sendJson(response, 404, { error: { message: 'not found' } });
  } else if (body === '{}') {
    sendJson(response, 400, { error: { message: 'no model' } });
  } else {
    startEvents(response);
    response.write(delta(''));
    response.end(delta('ok') + finish + done);
  }
};

async function deadUrl(): Promise<string> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`;
}

describe('models ls', () => {
  it('lists servers with health and models, the routes, and no key', async () => {
    const { cli, stdout } = testCli({ json: true, env });
    expect(await modelsList(cli)).toBe(1);
    const found = JSON.parse(stdout());
    expect(found).toMatchObject({
      path: join(dir, 'models.toml'),
      defaultModel: 'qwen3',
      servers: [
        {
          name: 'gpu',
          url: gpu.target.baseUrl,
          kind: 'local',
          api: 'openai',
          concurrency: 8,
          key: null,
          models: ['Qwen/Qwen3-8B', 'llama3'],
          tookMs: expect.any(Number),
          error: null,
        },
        { name: 'cloud', kind: 'hosted', key: 'env CLOUD_KEY', models: ['gpt-5-mini', 'gpt-9'] },
        { name: 'down', models: null, error: expect.stringContaining('ECONNREFUSED') },
      ],
    });
    // Models that a hosted server lists are not offered, unless the file names them.
    expect(found.models.map(({ name }: { name: string }) => name)).toEqual([
      'qwen3',
      'gpt-5-mini',
      'gone',
      'Qwen/Qwen3-8B',
      'llama3',
    ]);
    expect(found.models[0]).toEqual({
      name: 'qwen3',
      routes: [
        {
          upstream: 'gpu',
          model: 'Qwen/Qwen3-8B',
          weight: 3,
          price: { input: 0.075, output: 0.3, cachedInput: 0.075 },
        },
      ],
      fallback: ['gpt-5-mini'],
      fallbackOn: ['connect', 'timeout', '429', '5xx'],
    });
    expect(cloud.modelListKeys()).toEqual([`Bearer ${KEY}`]);
    expect([...gpu.requests, ...cloud.requests]).toEqual([]);
    expect(stdout()).not.toContain(KEY);
  });

  it('shows them as a table', async () => {
    const { cli, stdout, stderr } = testCli({ env });
    expect(await modelsList(cli)).toBe(1);
    expect(stdout()).toMatch(/^gpu +local +openai +http:\S+ +8 +- +answers in \S+ \S+ +Qwen\/Qwen3-8B, ll/m);
    expect(stdout()).toMatch(/^cloud +hosted +openai +http:\S+ +- +env CLOUD_KEY +answers/m);
    expect(stdout()).toMatch(/^qwen3 +gpu:Qwen\/Qwen3-8B \(3\) at \$0\.075\/\$0\.3 per million +gpt-5-mini$/m);
    expect(stdout()).toMatch(/^gpt-5-mini +cloud without price +-$/m);
    expect(stdout() + stderr()).not.toContain(KEY);
  });

  it('refuses a file with a fault by its key', async () => {
    await writeFile(join(dir, 'models.toml'), '[upstreams.gpu]\nurl = "http://127.0.0.1:1"\nkye = 1');
    const { cli } = testCli({ env });
    await expect(modelsList(cli)).rejects.toThrow(/upstreams\.gpu\.kye is unknown/);
  });
});

describe('models test', () => {
  it('requests a token from each route, and lists the APIs of its server', async () => {
    const { cli, stdout } = testCli({ json: true, env });
    expect(await modelsTest(cli, ['qwen3', 'gpt-5-mini'])).toBe(0);
    const dialects = ['chat', 'text', 'embeddings'];
    const firstTokenMs = expect.any(Number);
    expect(JSON.parse(stdout())).toEqual([
      { model: 'qwen3', upstream: 'gpu', upstreamModel: 'Qwen/Qwen3-8B', firstTokenMs, error: null, dialects },
      { model: 'gpt-5-mini', upstream: 'cloud', upstreamModel: 'gpt-5-mini', firstTokenMs, error: null, dialects },
    ]);
    expect(stdout()).not.toContain(KEY);
  });

  it('reports failures without the server’s words, with exit status 1', async () => {
    cloud.answer(({ headers }, response) =>
      sendJson(response, 401, { error: { message: `bad ${headers.authorization}` } }),
    );
    gpu.answer((_, response) => {
      startEvents(response);
      response.end(finish + done);
    });
    const { cli, stdout, stderr } = testCli({ env });
    expect(await modelsTest(cli, [])).toBe(1);
    expect(stdout()).toMatch(/^qwen3 +gpu +- .*ends its answer without any text$/m);
    expect(stdout()).toMatch(/^gpt-5-mini +cloud +- .*status 401: it denies the key/m);
    expect(stdout()).toMatch(/^gone +down +- +- +connect to down: .*ECONNREFUSED/m);
    expect(stdout() + stderr()).not.toContain(KEY);
  });

  it('a server that has a path, and answers 404 because no model is named, has that API', async () => {
    gpu.answer(({ path, body }, response) => {
      if (path === '/v1/completions' && body === '{}')
        sendJson(response, 404, { error: { message: "model '' not found" } });
      else if (path === '/v1/embeddings') sendJson(response, 404, { error: { message: 'File Not Found' } });
      else if (path === '/v1/responses') sendJson(response, 404, { detail: 'Not Found' });
      else speaksChat({ path, body } as Parameters<typeof speaksChat>[0], response);
    });
    const { cli, stdout } = testCli({ json: true, env });
    await modelsTest(cli, ['llama3']);
    expect(JSON.parse(stdout())).toMatchObject([{ dialects: ['chat', 'text'] }]);
  });

  it('asks a server of Anthropic’s API for its models and a message, with the key in x-api-key', async () => {
    cloud.answer(({ path, body }, response) => {
      if (path !== '/v1/messages') return sendJson(response, 404, {});
      if (body === '{}') return sendJson(response, 400, {});
      startEvents(response);
      response.end(sseOf(messageEvents({ text: 'ok' })));
    });
    await writeFile(
      join(dir, 'models.toml'),
      `
      [upstreams.claude]
      url = "${cloud.target.baseUrl}"
      api = "anthropic"
      key = { env = "CLOUD_KEY" }
      [models.gpt-9]
      upstream = "claude"
    `,
    );
    const list = testCli({ env });
    expect(await modelsList(list.cli)).toBe(0);
    expect(list.stdout()).toMatch(/^claude +local +anthropic +http:.* answers in .*gpt-9$/m);
    const { cli, stdout } = testCli({ json: true, env });
    expect(await modelsTest(cli, ['gpt-9'])).toBe(0);
    expect(JSON.parse(stdout())).toMatchObject([{ error: null, dialects: ['messages'] }]);
    expect(JSON.parse(cloud.requests.at(-1)?.body ?? '')).toMatchObject({
      model: 'gpt-9',
      stream: true,
      max_tokens: expect.any(Number),
    });
    expect(cloud.modelListKeys()).toEqual([undefined, undefined]);
    for (const { headers } of cloud.requests) {
      expect(headers).toMatchObject({ 'x-api-key': KEY, 'anthropic-version': '2023-06-01' });
      expect(headers).not.toHaveProperty('authorization');
    }
    expect(stdout() + list.stdout()).not.toContain(KEY);
  });

  it('refuses an unknown model, listing the known names', async () => {
    const { cli } = testCli({ env });
    await expect(modelsTest(cli, ['qwen4'])).rejects.toMatchObject({
      code: 'model_unknown',
      remedy: expect.stringContaining('qwen3, gpt-5-mini'),
    });
  });

  it('without a file tests the configured server', async () => {
    await rm(join(dir, 'models.toml'));
    const more = { NEUROVISOR_UPSTREAM: gpu.target.baseUrl ?? '', NEUROVISOR_UPSTREAM_KEY: KEY };
    const { cli, stdout } = testCli({ env: { ...env, ...more } });
    expect(await modelsTest(cli, [])).toBe(0);
    expect(stdout()).toMatch(/^Qwen\/Qwen3-8B +127\.0\.0\.1:\d+ +\S+ \S+ +chat, text, embeddings +ok$/m);
    expect(stdout()).not.toContain(KEY);
  });
});
