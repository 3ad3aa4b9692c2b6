/** The built-in engine with the model that set-up fetches: JSON that must parse, and tokens of one and two streams. */
import { mkdtemp, rm } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { prepareModel } from '../../src/artifacts/image/model.ts';
import { systemClock } from '../../src/base/clock.ts';
import { resolveHome } from '../../src/base/home.ts';
import { ignore } from '../../src/base/ignore.ts';
import { PACKAGE_DIR } from '../../src/base/package-dir.ts';
import { silentProgress } from '../../src/base/progress.ts';
import { type Engine, startEngine } from '../../src/inference/engine/process.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';

const STRUCTURED = ['engine.structured/schema', 'engine.structured/tool'] as const;
const TOKENS = ['engine.tokens/1', 'engine.tokens/2'] as const;
const ANSWER_TOKENS_MAX = 400;
const STREAM_TOKENS = 64;

export const engineBenchmark: Benchmark = {
  names: [...STRUCTURED, ...TOKENS],
  summary: 'built-in engine: answers that have to parse (failed ones count in "ok"), tokens/s of one and two streams',
  withoutRuntime: true,
  async measure(context) {
    await using world = await open(context);
    const { engine } = world;
    const found: Measurement[] = [];
    for (const name of STRUCTURED) {
      if (context.wants(name)) found.push(await structured(context, engine, name));
    }
    const wantsTokens = TOKENS.some((name) => context.wants(name));
    return wantsTokens ? [...found, ...(await tokens(context, engine))] : found;
  },
};

async function open({ config, log, signal }: BenchContext) {
  const { cacheDir } = resolveHome(config.home);
  const progress = silentProgress;
  const model = await prepareModel({ cacheDir, sourceDir: PACKAGE_DIR, progress, signal, log });
  const dir = await mkdtemp(join(tmpdir(), 'nv-bench-'));
  const engine = await startEngine({
    modelPath: model.path,
    modelId: 'bench',
    socketPath: join(dir, 'engine.sock'),
    gpu: config.gpu,
    clock: systemClock,
    log,
    signal,
  });
  await engine.ready;
  return {
    engine,
    async [Symbol.asyncDispose]() {
      await engine.stop();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

const text = { type: 'string' };
const number = { type: 'number' };
const object = (properties: Readonly<Record<string, object>>): object => ({
  type: 'object',
  properties,
  required: Object.keys(properties),
  additionalProperties: false,
});

/** Each shape that programs ask for: flat, nested, lists, choices, recursion, everything optional. */
const SCHEMAS: readonly object[] = [
  object({ name: text, age: { type: 'integer' } }),
  object({ title: text, tags: { type: 'array', items: text, maxItems: 4 }, done: { type: 'boolean' } }),
  object({ mood: { enum: ['good', 'bad', 'unknown'] }, score: number, reason: { type: ['string', 'null'] } }),
  object({ person: object({ first: text, last: text }), address: object({ city: text, zip: text }) }),
  object({ steps: { type: 'array', minItems: 1, maxItems: 3, items: object({ what: text, minutes: number }) } }),
  {
    ...object({ tree: { $ref: '#/$defs/node' } }),
    $defs: {
      node: object({
        label: { type: 'string', maxLength: 20 },
        children: { type: 'array', maxItems: 2, items: { anyOf: [{ type: 'null' }, { type: 'integer' }] } },
      }),
    },
  },
  { type: 'object', properties: { note: text, count: { type: 'integer' } } },
  object({ answer: { anyOf: [text, number, { type: 'boolean' }] }, quote: text }),
];

const SUBJECTS = [
  'a cat that sleeps on a keyboard',
  'the "best" café in Zürich, with its prices in €',
  'how to bake bread\nin three steps',
  'a customer who writes: it\\s broken!!! {"error": 42}',
  'Tokio at night 🗼',
  'a very long train journey through seven countries, with all of its stops, delays and meals',
  'nothing at all',
];

async function structured(
  { rounds, signal, say }: BenchContext,
  engine: Engine,
  name: (typeof STRUCTURED)[number],
): Promise<Measurement> {
  const samples: number[] = [];
  const faults: string[] = [];
  for (let round = 0; round < rounds; round += 1) {
    signal.throwIfAborted();
    say(`${name} ${round + 1} of ${rounds}`);
    const schema = SCHEMAS[round % SCHEMAS.length] ?? {};
    const subject = SUBJECTS[Math.floor(round / SCHEMAS.length) % SUBJECTS.length];
    const beganMs = systemClock.now();
    const body = {
      messages: [{ role: 'user', content: `Describe ${subject}.` }],
      max_tokens: ANSWER_TOKENS_MAX,
      // Different answers in each round, but the same in each run.
      temperature: round % 2 === 0 ? 0 : 0.8,
      seed: round,
      ...(name.endsWith('tool') ? asTool(schema) : asFormat(schema)),
    };
    const fault = faultOf(await post(engine, '/chat/completions', body), schema);
    if (fault === null) samples.push(systemClock.now() - beganMs);
    else faults.push(`round ${round}: ${fault}`);
  }
  const note = faults.length === 0 ? undefined : faults.slice(0, 3).join('; ');
  return rowsOf('ms', 'none')(name, samples, null, { failed: faults.length, note });
}

const asFormat = (schema: object) => ({
  response_format: { type: 'json_schema', json_schema: { name: 'answer', schema } },
});
const asTool = (parameters: object) => ({
  tools: [
    { type: 'function', function: { name: 'describe', description: 'Describe it.', parameters } },
    { type: 'function', function: { name: 'search', parameters: object({ query: text }) } },
  ],
  tool_choice: { type: 'function', function: { name: 'describe' } },
});

/** `null` if the answer parses, and has what its schema requires. */
function faultOf(answer: Answer, schema: object): string | null {
  const [choice] = answer.choices;
  const call = choice?.message?.tool_calls?.[0]?.function.arguments;
  const json = call ?? choice?.message?.content ?? '';
  try {
    const value: unknown = JSON.parse(json);
    const { required = [] } = schema as { readonly required?: readonly string[] };
    const missing = required.find((key) => !Object.hasOwn(value as object, key));
    return missing === undefined ? null : `${missing} is missing`;
  } catch (error) {
    ignore(error, 'told as a failed round');
    return `${choice?.finish_reason}: ${json.slice(0, 60)} … ${json.slice(-60)}`;
  }
}

/** Both take their turn in each round, on the same processors. */
async function tokens(context: BenchContext, engine: Engine): Promise<Measurement[]> {
  const ways = {
    one: async (round: number) => ({ rate: await rate(engine, [round - 1]) }),
    two: async (round: number) => ({ rate: await rate(engine, [2 * round - 2, 2 * round - 1]) }),
  };
  const { one, two } = await compare(context, 'tokens', ways, { warmUp: false });
  const row = rowsOf('1/s', 'none');
  const note = 'of both streams together';
  return [row(TOKENS[0], one('rate'), null), row(TOKENS[1], two('rate'), [TOKENS[0], one('rate')], { note })];
}

/** Tokens per second of all streams together, with their prompts. */
async function rate(engine: Engine, seeds: readonly number[]): Promise<number> {
  const beganMs = systemClock.now();
  const answers = await Promise.all(
    seeds.map((seed) =>
      post(engine, '/completions', {
        prompt: `Story ${seed}: once upon a time`,
        max_tokens: STREAM_TOKENS,
        temperature: 0.8,
        seed,
      }),
    ),
  );
  const written = answers.reduce((sum, { usage }) => sum + usage.completion_tokens, 0);
  return (written * 1000) / (systemClock.now() - beganMs);
}

interface Answer {
  readonly choices: readonly {
    readonly finish_reason: string;
    readonly message?: {
      readonly content: string | null;
      readonly tool_calls?: readonly { readonly function: { readonly arguments: string } }[];
    };
  }[];
  readonly usage: { readonly completion_tokens: number };
}

/** @throws if its status is not 200 */
function post({ socketPath }: Engine, path: string, body: object): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, path: `/v1${path}`, method: 'POST' }, (response) => {
      let answer = '';
      response.setEncoding('utf8').on('data', (part: string) => {
        answer += part;
      });
      response.on('error', reject).on('end', () => {
        if (response.statusCode === 200) resolve(JSON.parse(answer) as Answer);
        else reject(new Error(`the engine answered ${response.statusCode}: ${answer.slice(0, 500)}`));
      });
    });
    sent.on('error', reject).end(JSON.stringify({ model: 'bench', ...body }));
  });
}
