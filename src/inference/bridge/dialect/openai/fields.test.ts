import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Fields, foldKey, type Shape } from '../../fields.ts';
import { OPENAI_FIELDS, OPENAI_HAZARDS } from './fields.ts';
import { openaiDialect } from './openai.ts';

type Body = Record<string, unknown>;
type RouteName = keyof typeof OPENAI_FIELDS;

const PATHS = {
  chat: 'chat/completions',
  completions: 'completions',
  embeddings: 'embeddings',
  rerank: 'rerank',
  speech: 'audio/speech',
  transcription: 'audio/transcriptions',
  translation: 'audio/translations',
} as const;
const REQUIRED = {
  chat: { messages: [] },
  completions: { prompt: '' },
  embeddings: { input: '' },
  rerank: { documents: [] },
  speech: { input: '' },
  transcription: { file: '' },
  translation: { file: '' },
};
const ROUTES = Object.keys(PATHS) as RouteName[];

function inspect(body: Body, allowFields: readonly string[] = [], name: RouteName = 'chat') {
  const route = openaiDialect.route('POST', `/v1/${PATHS[name]}`);
  if (!route.ok || route.value.kind !== 'inference') throw new Error(name);
  return openaiDialect.inspect(route.value.operation, { ...REQUIRED[name], ...body }, { allowFields });
}

const message = (more: Body): Body => ({ messages: [{ role: 'user', content: 'x', ...more }] });
const part = (more: Body): Body => message({ content: [{ type: 'text', text: 'x', ...more }] });
const tool = (more: Body): Body => ({ tools: [{ type: 'function', function: { name: 'f' }, ...more }] });

/** Yields each object that a request may contain, with the body around it. */
function* objectsOf(
  fields: Fields,
  wrap: (inner: Body) => Body,
  path: string,
): Generator<{ path: string; fields: Fields; wrap: (inner: Body) => Body }> {
  yield { path, fields, wrap };
  for (const [name, shape] of Object.entries(fields)) {
    const inner = typeof shape === 'string' ? undefined : shape.fields;
    if (inner !== undefined) {
      yield* objectsOf(inner, (body) => wrap({ [name]: [body] }), `${path}${name}.`);
    }
  }
}
const OBJECTS = ROUTES.flatMap((name) => [
  ...[...objectsOf(OPENAI_FIELDS[name], (body) => body, '')].map((one) => ({ ...one, name })),
]);

describe('inspect: fields', () => {
  // The parameters of openai 3.57, except those among the hazards.
  const OPENAI = {
    chat:
      'audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages ' +
      'metadata modalities model n parallel_tool_calls prediction presence_penalty prompt_cache_key ' +
      'prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed ' +
      'service_tier stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity',
    completions:
      'best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed stop stream ' +
      'stream_options suffix temperature top_p user',
    embeddings: 'dimensions encoding_format input model user',
    // OpenAI has none; these are Cohere's and Jina's.
    rerank: 'documents max_tokens_per_doc model query return_documents top_n',
    speech: 'input instructions model response_format speed stream_format voice',
    // Excludes samples of speakers.
    transcription:
      'chunking_strategy file include[] language model prompt response_format stream temperature timestamp_granularities[]',
    translation: 'file model prompt response_format temperature',
  };
  it.each(ROUTES)('%s: knows all parameters of the OpenAI client', (name) => {
    const known = Object.keys(OPENAI_FIELDS[name]);
    expect(OPENAI[name].split(' ').filter((one) => !known.includes(one))).toEqual([]);
  });

  const passing: [string, Body][] = [
    [
      'what ChatOpenAI and agents of LangChain send',
      {
        model: 'm',
        stream: true,
        stream_options: { include_usage: true },
        temperature: 0.7,
        parallel_tool_calls: false,
        tool_choice: { type: 'function', function: { name: 'f' } },
        tools: [
          { type: 'function', function: { name: 'f', description: 'd', parameters: { TYPE: 'object' }, strict: true } },
        ],
        messages: [
          { role: 'system', content: 's' },
          { role: 'user', content: [{ type: 'text', text: 'hi' }], name: 'u' },
          {
            role: 'assistant',
            content: null,
            tool_calls: [{ id: '1', type: 'function', function: { name: 'f', arguments: '{}' } }],
          },
          { role: 'tool', tool_call_id: '1', content: 'r' },
        ],
      },
    ],
    [
      'an answer that a client sends back as it is',
      message({
        role: 'assistant',
        refusal: null,
        annotations: [],
        audio: null,
        function_call: null,
        tool_calls: null,
        reasoning: 'r',
        reasoning_content: 'r',
        parsed: null,
      }),
    ],
    [
      'a JSON Schema, whose keys are the guest’s',
      {
        response_format: {
          type: 'json_schema',
          json_schema: { name: 'a', strict: true, schema: { properties: { uuid: {}, UUID: {} } } },
        },
      },
    ],
    ['maps of labels', { metadata: { any: 'x', Model: 'y' }, logit_bias: { '50256': -100 } }],
    [
      'options of vLLM, SGLang and llama.cpp',
      {
        top_k: 1,
        min_p: 0.1,
        repetition_penalty: 1.1,
        guided_json: { a: 1 },
        structured_outputs: { json: { a: 1 } },
        chat_template_kwargs: { enable_thinking: false },
        ebnf: 'x',
        grammar: 'x',
        samplers: ['top_k'],
        dry_multiplier: 1,
        cache_prompt: true,
      },
    ],
    ['no storage', { store: false }],
    ['the usual service tier', { service_tier: 'auto' }],
    ['a custom tool', { tools: [{ type: 'custom', custom: { name: 'c', format: { type: 'text' } } }] }],
    ['nulls, as some clients send for unset options', { tools: null, user: null, service_tier: null }],
  ];
  it.each(passing)('accepts %s', (_, body) => {
    expect(inspect(body)).toMatchObject({ ok: true });
  });

  const refused: [string, Body, string, string][] = [
    ['an unknown field', { colour: 1 }, 'field_refused', 'colour'],
    ['an inherited name', { constructor: 1 }, 'field_refused', 'constructor'],
    ['a prototype', JSON.parse('{"__proto__":1}') as Body, 'field_refused', '__proto__'],
    ['a search', { enable_search: true }, 'provider_tool_refused', 'enable_search'],
    ['search options', { web_search_options: {} }, 'provider_tool_refused', 'web_search_options'],
    ['a tool of the server', { tools: [{ type: 'web_search' }] }, 'provider_tool_refused', 'tools.type'],
    [
      'a tool of the server beside another',
      { tools: [{ type: 'function' }, { type: 'mcp' }] },
      'provider_tool_refused',
      'tools.type',
    ],
    ['a tool by its key', { tools: [{ googleSearch: {} }] }, 'field_refused', 'tools.googleSearch'],
    ['a folded type', tool({ TYPE: 'web_search' }), 'invalid_value', 'tools.TYPE'],
    ['tools of a message', message({ tools: [] }), 'field_refused', 'messages.tools'],
    ['tensors', { prompt_embeds: 'x' }, 'field_refused', 'prompt_embeds'],
    ['tensors in a message', part({ image_embeds: 'x' }), 'field_refused', 'messages.content.image_embeds'],
    ['a template', { chat_template: '{{ 1 }}' }, 'field_refused', 'chat_template'],
    [
      'a template in its arguments',
      { chat_template_kwargs: { chat_template: 'x' } },
      'field_refused',
      'chat_template_kwargs.chat_template',
    ],
    ['a request id', { request_id: 'x' }, 'field_refused', 'request_id'],
    ['an entry of the media cache', part({ uuid: 'x' }), 'field_refused', 'messages.content.uuid'],
    ['transfers', { kv_transfer_params: {} }, 'field_refused', 'kv_transfer_params'],
    ['another host', { api_base: 'http://x' }, 'field_refused', 'api_base'],
    ['another model', { models: ['m2'] }, 'field_refused', 'models'],
    ['a salt', { cache_salt: 'x' }, 'field_refused', 'cache_salt'],
    ['the counts of the cache', { return_progress: true }, 'field_refused', 'return_progress'],
    ['storage', { store: true }, 'field_refused', 'store'],
    ['the front of the queue', { service_tier: 'priority' }, 'field_refused', 'service_tier'],
    ['an object for a label', { stop: { a: 1 } }, 'invalid_value', 'stop'],
    ['an object in metadata', { metadata: { a: { b: 1 } } }, 'invalid_value', 'metadata.a'],
    ['text for an object', { tools: ['web_search'] }, 'invalid_value', 'tools'],
    ['a label that is no string', { user: 1 }, 'invalid_value', 'user'],
  ];
  it.each(refused)('refuses %s', (_, body, code, param) => {
    const result = inspect(body);
    expect(result).toMatchObject({ ok: false, refusal: { status: 400, code, param } });
  });

  it('names the field and the remedy', () => {
    const result = inspect(part({ colour: 1 }));
    expect(result).toMatchObject({
      refusal: {
        message:
          '"messages.content.colour" is refused: the bridge does not know it. Remove it, or allow it on the host ' +
          'with --allow-field messages.content.colour.',
      },
    });
    // An error for a name that no option can have has no remedy.
    expect(inspect({ 'a b': 1 })).toMatchObject({
      refusal: { message: '"a b" is refused: the bridge does not know it. Remove it.' },
    });
    expect(inspect({ ['x'.repeat(9000)]: 1 })).toMatchObject({
      refusal: { message: expect.stringMatching(/^.{0,200}$/) },
    });
  });

  it.each(OBJECTS.map((one) => [`${one.name} ${one.path}`, one] as const))(
    '%s: accepts a key only in the listed spelling',
    (_, { name, fields, wrap }) => {
      for (const key of Object.keys(fields)) {
        const spellings = [
          key.toUpperCase(),
          `${key[0]?.toUpperCase()}${key.slice(1)}`,
          key.replace('s', 'ſ'),
          key.replace('k', '\u212a'),
          key.replaceAll('_', ''),
          key.replaceAll('_', '-'),
          `${key} `,
          `${key}\0`,
        ];
        for (const spelling of new Set(spellings)) {
          if (Object.hasOwn(fields, spelling)) continue;
          expect(inspect(wrap({ [spelling]: null }), [], name), spelling).toMatchObject({ ok: false });
        }
      }
    },
  );

  it.each(OBJECTS.map((one) => [`${one.name} ${one.path}`, one] as const))(
    '%s: lists no hazard, and no two keys that a case-folding server would confuse',
    (_, { name, path, fields, wrap }) => {
      // Ignores `_` and `-` too, as Go's encoding/json/v2 may when it compares names.
      const folded = Object.keys(fields).map((key) => foldKey(key).replaceAll(/[_-]/g, ''));
      expect(new Set(folded).size).toBe(folded.length);
      for (const hazard of OPENAI_HAZARDS.keys()) {
        const restricted = typeof fields[hazard] === 'object' && 'only' in (fields[hazard] as Shape);
        const isOther = path !== '' && Object.hasOwn(fields, hazard);
        if (restricted || isOther || hazard.includes('.')) continue;
        expect(inspect(wrap({ [hazard]: null }), [], name), path + hazard).toMatchObject({ ok: false });
      }
    },
  );

  it('passes a field that the owner allowed at exactly its path, unchecked', () => {
    const pass = (body: Body, ...allow: string[]): boolean => inspect(body, allow).ok;
    expect(pass({ enable_search: true }, 'enable_search')).toBe(true);
    expect(pass({ tools: [{ type: 'web_search' }] }, 'tools.type')).toBe(true);
    expect(pass(part({ uuid: 'x' }), 'messages.content.uuid')).toBe(true);
    expect(pass({ service_tier: 'priority' }, 'service_tier')).toBe(true);
    expect(pass({ extra: { url: 'http://x', a: [{ b: 1 }] } }, 'extra')).toBe(true);
    // Refused elsewhere and in another spelling; no other field is allowed.
    expect(pass(part({ uuid: 'x' }), 'uuid')).toBe(false);
    expect(pass({ ENABLE_SEARCH: true }, 'enable_search')).toBe(false);
    expect(pass({ enable_search: true, priority: 1 }, 'enable_search')).toBe(false);
    // Fields that the bridge itself reads stay checked.
    expect(pass({ model: 1 }, 'model')).toBe(false);
    expect(pass({ tools: {} }, 'tools')).toBe(false);
  });

  it('binds labels of caches and users to the sandbox, unless the owner allowed them', () => {
    const labels = { prompt_cache_key: 'a', safety_identifier: 'b', user: 'c' };
    expect(inspect(labels)).toMatchObject({ value: { bound: labels } });
    const rest = { prompt_cache_key: 'a', safety_identifier: 'b' };
    expect(inspect(labels, ['user'])).toMatchObject({ value: { bound: rest } });
    expect(inspect({ user: null })).toMatchObject({ value: { bound: {} } });
  });

  it('documents each field', () => {
    const text = readFileSync(join(import.meta.dirname, '../../../../../docs/reference/fields.md'), 'utf8');
    const names = new Set([
      ...OBJECTS.flatMap(({ fields }) => Object.keys(fields)),
      ...[...OPENAI_HAZARDS.keys()].map((path) => path.split('.').at(-1) ?? ''),
    ]);
    expect([...names].filter((name) => !text.includes(`\`${name}\``))).toEqual([]);
  });
});
