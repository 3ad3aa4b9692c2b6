import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseModelsFile } from './models-file.ts';

const UPSTREAM = '[upstreams.gpu]\nurl = "http://127.0.0.1:8000/v1"\n';

describe('parseModelsFile', () => {
  it('reads the example of docs/reference/routing.md', () => {
    const docs = readFileSync(join(import.meta.dirname, '../../../../docs/reference/routing.md'), 'utf8');
    const section = docs.slice(docs.indexOf('## Many upstreams'));
    const [, example = ''] = /```toml\n(.*?)```/s.exec(section) ?? [];
    const { upstreams, models } = parseModelsFile(example);
    expect(upstreams.map(({ name, isHosted }) => [name, isHosted])).toEqual([
      ['gpu', false],
      ['spare', false],
      ['openai', true],
      ['claude', true],
    ]);
    expect(upstreams.at(-1)?.target).toMatchObject({ api: 'anthropic' });
    expect([...models.keys()]).toEqual(['qwen3', 'gpt-5-mini', 'claude-sonnet-5']);
  });

  it('reads upstreams and routes', () => {
    const { upstreams, models, defaultModel } = parseModelsFile(`
      default = "qwen3"
      [upstreams.gpu]
      url = "http://127.0.0.1:8000/v1"
      concurrency = 8
      [upstreams.box]
      url = "unix:/run/vllm.sock"
      answer_within_s = 30
      discover = false
      [upstreams.openai]
      url = "https://api.openai.com/v1"
      key = { env = "OPENAI_API_KEY" }
      [models."qwen3"]
      routes = [
        { upstream = "gpu", model = "Qwen/Qwen3-8B", weight = 3 },
        { upstream = "box" },
      ]
      fallback = ["gpt-5-mini"]
      [models.gpt-5-mini]
      upstream = "openai"
      fallback_on = ["connect"]
    `);
    expect(upstreams).toMatchObject([
      { name: 'gpu', isHosted: false, discover: true, key: null },
      { name: 'box', isHosted: false, answerWithinMs: 30_000, discover: false },
      { name: 'openai', isHosted: true, discover: false, key: { env: 'OPENAI_API_KEY' } },
    ]);
    expect(upstreams[0]?.target).toMatchObject({ slots: 8 });
    expect(upstreams[1]?.target).toEqual({ name: 'box', socketPath: '/run/vllm.sock' });
    expect(defaultModel).toBe('qwen3');
    expect([...models]).toEqual([
      [
        'qwen3',
        {
          routes: [
            { upstream: 'gpu', model: 'Qwen/Qwen3-8B', weight: 3 },
            { upstream: 'box', model: 'qwen3', weight: 1 },
          ],
          fallback: ['gpt-5-mini'],
          fallbackOn: new Set(['connect', 'timeout', '429', '5xx']),
        },
      ],
      [
        'gpt-5-mini',
        {
          routes: [{ upstream: 'openai', model: 'gpt-5-mini', weight: 1, price: null }],
          fallback: [],
          fallbackOn: new Set(['connect']),
        },
      ],
    ]);
  });

  it('reads prices: of a route, else of its model; without one, local routes are free and hosted ones unknown', () => {
    const { models } = parseModelsFile(`
      ${UPSTREAM}
      [upstreams.cloud]
      url = "https://models.example"
      [models.m]
      price = { input = 2.5, output = 10, cached_input = 0.25 }
      routes = [
        { upstream = "gpu", price = { input = 0, output = 0.000001 } },
        { upstream = "cloud" },
        { upstream = "gpu" },
      ]
      [models.n]
      routes = [{ upstream = "gpu" }, { upstream = "cloud" }]
      [models.o]
      upstream = "cloud"
      price = { input = 1, output = 2 }
    `);
    const prices = (name: string) => models.get(name)?.routes.map(({ price }) => price);
    const own = { input: 2_500_000, output: 10_000_000, cachedInput: 250_000 };
    expect(prices('m')).toEqual([{ input: 0, output: 1, cachedInput: 0 }, own, own]);
    expect(prices('n')).toEqual([undefined, null]);
    expect(prices('o')).toEqual([{ input: 1_000_000, output: 2_000_000, cachedInput: 1_000_000 }]);
  });

  it.each([
    ['price = 5', /models\.m\.price must be a table in dollars for a million tokens/],
    ['price = {}', /models\.m\.price\.input is missing/],
    ['price = { input = 1 }', /models\.m\.price\.output is missing/],
    ['price = { input = 1, output = "2" }', /models\.m\.price\.output must be a number of dollars/],
    ['price = { input = -1, output = 2 }', /models\.m\.price\.input must be .* from 0 to 100000/],
    ['price = { input = inf, output = 2 }', /models\.m\.price\.input must be/],
    ['price = { input = nan, output = 2 }', /models\.m\.price\.input must be/],
    ['price = { input = 100001, output = 2 }', /models\.m\.price\.input must be/],
    ['price = { input = 0.0000001, output = 2 }', /models\.m\.price\.input must be .* 6 decimals/],
    ['price = { input = 1, output = 2, cached_input = 1.5 }', /price\.cached_input is above input/],
    ['price = { input = 1, output = 2, reasoning = 3 }', /models\.m\.price\.reasoning is unknown/],
    ['routes = [{ upstream = "gpu", price = { input = 1 } }]', /routes\[0\]\.price\.output is miss/],
  ])('refuses %s', (line, message) => {
    const upstream = line.startsWith('routes') ? '' : 'upstream = "gpu"';
    expect(() => parseModelsFile(`${UPSTREAM}[models.m]\n${upstream}\n${line}`)).toThrow(message);
  });

  it('reads engines of a file, a pulled model, or the set-up’s model; a route to one uses its only name', () => {
    const { upstreams, models } = parseModelsFile(`
      [upstreams.small]
      engine = true
      [upstreams.large]
      engine = "models/large.gguf"
      discover = false
      [upstreams.pulled]
      engine = "llama3.2-1b"
      [models.assistant]
      routes = [{ upstream = "large" }, { upstream = "small", model = "small" }]
    `);
    expect(upstreams).toMatchObject([
      { name: 'small', engine: { kind: 'usual' }, isHosted: false, discover: true, key: null },
      { name: 'large', engine: { kind: 'file', path: 'models/large.gguf' }, discover: false },
      { name: 'pulled', engine: { kind: 'pulled', model: 'llama3.2-1b' } },
    ]);
    expect(models.get('assistant')?.routes).toEqual([
      { upstream: 'large', model: 'large', weight: 1 },
      { upstream: 'small', model: 'small', weight: 1 },
    ]);
  });

  it.each([
    ['http://localhost:1', false],
    ['http://127.9.9.9:1', false],
    ['http://10.0.0.7:1', false],
    ['http://172.31.0.1:1', false],
    ['http://192.168.1.1:1', false],
    ['http://[::1]:1', false],
    ['http://[fd00::1]:1', false],
    ['http://[::ffff:10.0.0.1]:1', false],
    ['unix:/run/x.sock', false],
    ['http://172.32.0.1:1', true],
    ['http://169.254.169.254', true],
    ['http://8.8.8.8', true],
    ['http://[2001:db8::1]', true],
    ['https://localhost.example.com', true],
    ['https://gpu.internal', true],
    // The same address in another notation.
    ['http://2130706433:1', false],
  ])('%s is hosted elsewhere by default: %s', (url, isHosted) => {
    const [upstream] = parseModelsFile(`[upstreams.a]\nurl = "${url}"`).upstreams;
    expect(upstream).toMatchObject({ isHosted, discover: !isHosted });
  });

  it('reads the betas that sandboxes may enable at an upstream with Anthropic’s API', () => {
    const [upstream] = parseModelsFile(`${UPSTREAM}api = "anthropic"\nbetas = ["context-1m-2025-08-07"]`).upstreams;
    expect(upstream?.target).toMatchObject({ betas: ['context-1m-2025-08-07'] });
  });

  it.each([
    ['[upstreams.gpu\n', /line 1, column \d+ is not TOML/],
    [`${UPSTREAM}key = "sk-secret`, /line 3, column \d+ is not TOML/],
    ['', /upstreams is missing/],
    ['[upstreams.gpu]\n', /upstreams\.gpu\.url is missing/],
    ['[upstreams.gpu]\nurl = "ftp://x"', /upstreams\.gpu\.url is not http/],
    ['[upstreams.gpu]\nurl = "https://u:sk-secret@x"', /upstreams\.gpu\.url is not http/],
    ['[upstreams."a b"]\nurl = "http://x"', /upstreams\."a b" has a name/],
    [`${UPSTREAM}concurency = 8`, /upstreams\.gpu\.concurency is unknown; known are .*concurrency/],
    [`${UPSTREAM}concurrency = 0`, /upstreams\.gpu\.concurrency must be a whole number from 1 to/],
    [`${UPSTREAM}concurrency = "8"`, /upstreams\.gpu\.concurrency must be a whole number/],
    [`${UPSTREAM}hosted = "no"`, /upstreams\.gpu\.hosted must be true or false/],
    [`${UPSTREAM}key = "sk-secret"`, /upstreams\.gpu\.key must be a table: .* never the key itself/],
    ['[upstreams.a]\nengine = false', /upstreams\.a\.engine must be true or a path/],
    ['[upstreams.a]\nengine = true\nurl = "http://x"', /url is unknown; known are .*engine/],
    ['[upstreams.a]\nengine = true\nhosted = true', /hosted is unknown/],
    [
      '[upstreams.a]\nengine = true\n[models.m]\nupstream = "a"\nmodel = "b"',
      /models\.m\.model is not a, the only name of an engine's model/,
    ],
    [`${UPSTREAM}betas = ["a"]`, /upstreams\.gpu\.betas is unknown/],
    [`${UPSTREAM}api = "anthropic"\nbetas = "a"`, /gpu\.betas must be a list of strings/],
    [`${UPSTREAM}api = "anthropic"\nbetas = ["a, b"]`, /gpu\.betas has "a, b", which is no name/],
    [`${UPSTREAM}api = "anthropic"\nbetas = [${'"a",'.repeat(33)}]`, /gpu\.betas has more than 32 entries/],
    [`${UPSTREAM}key = {}`, /upstreams\.gpu\.key names one of env, file and command/],
    [`${UPSTREAM}key = { env = "A", command = ["x"] }`, /key names one of env, file and command/],
    [`${UPSTREAM}key = { command = [] }`, /key\.command is a list of a program and/],
    [`${UPSTREAM}key = { command = [""] }`, /key\.command is a list of a program and/],
    [`${UPSTREAM}key = { command = ["a", "\\u0000"] }`, /key\.command is a list of a program/],
    [`${UPSTREAM}key = { command = "pass show key" }`, /key\.command must be a list of strings/],
    [`${UPSTREAM}key = { env = "A", file = "b" }`, /upstreams\.gpu\.key names one of/],
    [`${UPSTREAM}key = { env = "sk-secret" }`, /upstreams\.gpu\.key\.env is not the name/],
    [`${UPSTREAM}key = { value = "sk-secret" }`, /upstreams\.gpu\.key\.value is unknown/],
    ['[upstreams.a]\nurl = "http://x"\nkey = { env = "K" }', /would send the key unencrypted/],
    [`${UPSTREAM}[models.m]\n`, /models\.m needs either upstream or routes/],
    [`${UPSTREAM}[models.m]\nupstream = "gpu"\nroutes = []`, /models\.m needs either/],
    [`${UPSTREAM}[models.m]\nroutes = []`, /models\.m\.routes is empty/],
    [`${UPSTREAM}[models.m]\nupstream = "cpu"`, /models\.m\.upstream is "cpu", which is none of gpu/],
    [`${UPSTREAM}[models.m]\nroutes = [{ upstream = "gpu", weight = 1.5 }]`, /routes\[0\]\.weight/],
    [`${UPSTREAM}[models.m]\nroutes = [{ upstream = "gpu", wait = 1 }]`, /routes\[0\]\.wait is unkn/],
    [`${UPSTREAM}[models.m]\nroutes = ["gpu"]`, /models\.m\.routes must be a list of tables/],
    [`${UPSTREAM}[models.m]\nupstream = "gpu"\nfallback = ["n"]`, /names "n", which is not in/],
    [`${UPSTREAM}[models.m]\nupstream = "gpu"\nfallback = ["m"]`, /names the model itself/],
    [`${UPSTREAM}[models.m]\nupstream = "gpu"\nfallback_on = ["4xx"]`, /fallback_on has "4xx"/],
    [`${UPSTREAM}[models.all]\nupstream = "gpu"`, /models\.all has a name that means something/],
    [`${UPSTREAM}[models."a\\nb"]\nupstream = "gpu"`, /printable/],
    [`${UPSTREAM}[models]\nm = 1979-05-27`, /models\.m must be a table/],
    [`${UPSTREAM}[modles.m]\nupstream = "gpu"`, /modles is unknown; known are default, models, upstr/],
    [`default = ""\n${UPSTREAM}`, /default must be a string that is not empty/],
    [`${UPSTREAM}[models.__proto__]\nupstream = "cpu"`, /models\.__proto__\.upstream is "cpu"/],
  ])('refuses %j', (text, message) => {
    let error: unknown;
    try {
      parseModelsFile(text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ code: 'models_file_invalid', message: expect.stringMatching(message) });
    expect(String(error)).not.toContain('sk-secret');
  });
});
