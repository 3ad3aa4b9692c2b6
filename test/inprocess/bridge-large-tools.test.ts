/** Tools that are large, many, or used in an inconsistent history, through each dialect. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BridgeFixture } from '../support/bridge-fixture.ts';
import { sentTo, type TwoApis, twoApis } from '../support/two-apis.ts';

type Json = Readonly<Record<string, unknown>>;
type Tool = { readonly name: string; readonly schema: Json };

const ASKED = [{ role: 'user', content: 'hello' }];
const REQUESTS: Readonly<Record<string, readonly [string, (tools: readonly Tool[]) => Json]>> = {
  openai: ['/v1/chat/completions', (tools) => ({ messages: ASKED, tools: tools.map(asFunction) })],
  anthropic: [
    '/v1/messages',
    (tools) => ({
      messages: ASKED,
      max_tokens: 5,
      tools: tools.map(({ name, schema }) => ({ name, input_schema: schema })),
    }),
  ],
  responses: [
    '/v1/responses',
    (tools) => ({
      input: 'hello',
      tools: tools.map(({ name, schema }) => ({ type: 'function', name, parameters: schema })),
    }),
  ],
  ollama: ['/api/chat', (tools) => ({ messages: ASKED, stream: false, tools: tools.map(asFunction) })],
};
const asFunction = ({ name, schema }: Tool): Json => ({ type: 'function', function: { name, parameters: schema } });
const schemaOf = (properties: Json): Json => ({ type: 'object', properties });
const NAMES = Object.keys(REQUESTS);
const MIB = 1024 * 1024;

let world: TwoApis;
let fixture: BridgeFixture;
beforeAll(async () => {
  world = await twoApis();
  fixture = await world.bridge();
});
afterAll(() => world.cleanup.run());

const ask = (name: string, tools: readonly Tool[], model = 'own') => {
  const [path, body] = REQUESTS[name] ?? ['', () => ({})];
  return fixture.call(path, { model, ...body(tools) });
};

/** Number of bodies that were checked in the main loop, or in a thread. */
const checkedIn = (where: string): number =>
  fixture.bridge
    .metrics()
    .filter(({ name }) => name === 'neurovisor_bridge_body_check_seconds')
    .flatMap((metric) => metric.samples())
    .filter((one) => one.suffix === '_count' && one.labels['where'] === where)
    .reduce((sum, { value }) => sum + value, 0);

/** Names and schemas of the last request, in any API. */
function sentTools(model: string): readonly Tool[] {
  const { tools } = sentTo(model === 'own' ? world.local : world.claude) as { tools: readonly Json[] };
  return tools.map((tool) => {
    const { name, parameters, input_schema } = (tool['function'] ?? tool) as Json;
    return { name: name as string, schema: (parameters ?? input_schema) as Json };
  });
}

describe.each(NAMES)('tools of %s', (name) => {
  it('a schema of 10 MB passes whole, and is checked in a thread', async () => {
    const words = Array.from({ length: 1000 }, (_, i) => [`p${i}`, { description: 'é'.repeat(5000) }]);
    const tool = { name: 'f', schema: schemaOf(Object.fromEntries(words)) };
    const before = checkedIn('loop');
    const answer = await ask(name, [tool]);
    expect(answer.status).toBe(200);
    expect(sentTools('own')).toEqual([tool]);
    expect([checkedIn('loop') - before, checkedIn('thread') > 0]).toEqual([0, true]);
  });

  it.each([
    ['objects', Object.fromEntries(Array.from({ length: 100_001 }, (_, i) => [`p${i % 1000}-${i}`, {}])), 400],
    ['bytes', { p: { description: 'x'.repeat(32 * MIB) } }, 413],
    ['levels', JSON.parse(`${'{"properties":'.repeat(101)}{}${'}'.repeat(101)}`) as Json, 400],
  ])('a schema of too many %s is refused, with that reason', async (what, properties, status) => {
    const sent = world.local.requests.length;
    const answer = await ask(name, [{ name: 'f', schema: schemaOf(properties) }]);
    expect(answer.status).toBe(status);
    expect(answer.body).toMatch(
      { objects: /objects|keys/, bytes: /bytes|large|long|MiB/, levels: /deep|nest/ }[what] ?? /^$/,
    );
    expect(world.local.requests.length).toBe(sent);
  });

  it.each(['own', 'm1'])('1,000 tools, and a name of 10,000 characters, reach %s', async (model) => {
    const many = Array.from({ length: 1000 }, (_, i) => ({
      name: `f${i}`,
      schema: schemaOf({ a: { type: 'string' } }),
    }));
    const tools = [...many, { name: 'n'.repeat(10_000), schema: schemaOf({}) }];
    expect((await ask(name, tools, model)).status).toBe(200);
    expect(sentTools(model)).toEqual(tools);
  });
});

describe('inconsistent histories', () => {
  const calls = (ids: readonly string[]): Json[] =>
    ids.map((id) => ({ id, type: 'function', function: { name: 'f', arguments: '{}' } }));
  const uses = (ids: readonly string[]): Json[] => ids.map((id) => ({ type: 'tool_use', id, name: 'f', input: {} }));
  const results = (ids: readonly string[]): Json[] =>
    ids.map((id) => ({ type: 'tool_result', tool_use_id: id, content: 'r' }));
  const histories: readonly (readonly [string, readonly string[], readonly string[]])[] = [
    ['two calls of one id', ['a', 'a'], ['a', 'a']],
    ['a result without a call', [], ['a']],
    ['two results of one call', ['a'], ['a', 'a']],
    ['a call without a result', ['a', 'b'], ['a']],
    ['results in another order', ['a', 'b'], ['b', 'a']],
  ];
  const bodies: Readonly<
    Record<string, (made: readonly string[], given: readonly string[]) => readonly [string, Json]>
  > = {
    openai: (made, given) => [
      '/v1/chat/completions',
      {
        messages: [
          ...ASKED,
          ...(made.length > 0 ? [{ role: 'assistant', content: null, tool_calls: calls(made) }] : []),
          ...given.map((id) => ({ role: 'tool', tool_call_id: id, content: 'r' })),
        ],
      },
    ],
    anthropic: (made, given) => [
      '/v1/messages',
      {
        max_tokens: 5,
        messages: [
          ...ASKED,
          ...(made.length > 0 ? [{ role: 'assistant', content: uses(made) }] : []),
          { role: 'user', content: results(given) },
        ],
      },
    ],
    responses: (made, given) => [
      '/v1/responses',
      {
        input: [
          ...ASKED,
          ...made.map((id) => ({ type: 'function_call', call_id: id, name: 'f', arguments: '{}' })),
          ...given.map((id) => ({ type: 'function_call_output', call_id: id, output: 'r' })),
        ],
      },
    ],
    ollama: (made, given) => [
      '/api/chat',
      {
        stream: false,
        messages: [
          ...ASKED,
          ...(made.length > 0
            ? [
                {
                  role: 'assistant',
                  content: '',
                  tool_calls: made.map((id) => ({ id, function: { name: 'f', arguments: {} } })),
                },
              ]
            : []),
          ...given.map((id) => ({ role: 'tool', tool_call_id: id, content: 'r' })),
        ],
      },
    ],
  };
  const cases = Object.keys(bodies).flatMap((name) =>
    histories.flatMap(([title, made, given]) =>
      ['own', 'm1'].map((model) => [name, title, model, made, given] as const),
    ),
  );

  /** Ids of calls and of results in the request that the server received. */
  function sentIds(model: string): readonly (readonly unknown[])[] {
    const { messages } = sentTo(model === 'own' ? world.local : world.claude) as { messages: readonly Json[] };
    const blocks = messages.flatMap(({ content }) => (Array.isArray(content) ? content : []) as Json[]);
    const made = messages.flatMap((message) => (message['tool_calls'] ?? []) as Json[]);
    return [
      [...made.map(({ id }) => id), ...blocks.filter(({ type }) => type === 'tool_use').map(({ id }) => id)],
      [...messages, ...blocks].flatMap((one) => one['tool_call_id'] ?? one['tool_use_id'] ?? []),
    ];
  }

  it.each(cases)('%s: %s, for %s: unchanged, or refused', async (name, _title, model, made, given) => {
    const [path, body] = bodies[name]?.(made, given) ?? ['', {}];
    const answer = await fixture.call(path, { model, ...body });
    const isOllama = name === 'ollama';
    if (isOllama && given.length > made.length) {
      // Its results have no ids in most clients, so the bridge finds their calls.
      expect([answer.status, answer.body]).toEqual([400, expect.stringContaining('answers no tool call')]);
      return;
    }
    expect(answer.status).toBe(200);
    const isTwice = isOllama && made.length > new Set(made).size;
    // The model server judges the others.
    expect(sentIds(model)).toEqual(
      isTwice
        ? [
            ['a', 'call_1'],
            ['a', 'call_1'],
          ]
        : [made, given],
    );
  });
});
