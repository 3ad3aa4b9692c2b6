/**
 * Parses the OpenAI API requests that the engine supports: JSON in, checked values out. Unsupported fields are refused
 * by name; fields without effect (`user`, `store`, …) are ignored. Source: the OpenAI API reference, sections Chat,
 * Completions and Embeddings.
 */
import { z } from 'zod';
import type { Sampling } from './backend.ts';
import { EngineError } from './errors.ts';
import type { CallableTool, JsonSchema } from './grammar.ts';

const MESSAGES_MAX = 4_096;
const TOOLS_MAX = 128;
const STOPS_MAX = 16;
/** Characters of one stop string; streaming holds back as many. */
const STOP_LENGTH_MAX = 256;
const PROMPTS_MAX = 64;
/** Texts of one embedding request, the limit of OpenAI. */
const INPUTS_MAX = 2_048;
const NAME_LENGTH_MAX = 256;

export interface Message {
  readonly role: 'system' | 'user' | 'assistant' | 'tool';
  readonly text: string;
  readonly calls: readonly { readonly name: string; readonly arguments: string }[];
}

export interface Tool extends CallableTool {
  readonly description: string;
}

export interface CommonRequest {
  readonly model: string;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  /** Default if null: the engine's limit, within the context. */
  readonly maxTokens: number | null;
  readonly sampling: Sampling;
  readonly stops: readonly string[];
  readonly cacheSalt: string;
}

export interface ChatRequest extends CommonRequest {
  readonly messages: readonly Message[];
  readonly tools: readonly Tool[];
  /** `{name}` forces a call of this tool. */
  readonly toolChoice: 'none' | 'auto' | 'required' | { readonly name: string };
  readonly format:
    | { readonly kind: 'text' }
    | { readonly kind: 'json' }
    | { readonly kind: 'schema'; readonly schema: JsonSchema; readonly strict: boolean };
}

export interface CompletionRequest extends CommonRequest {
  readonly prompts: readonly (string | readonly number[])[];
  readonly echo: boolean;
}

export interface EmbeddingRequest {
  readonly model: string;
  readonly inputs: readonly (string | readonly number[])[];
  readonly encoding: 'float' | 'base64';
  /** Length of a vector; `null` for the full one. */
  readonly dimensions: number | null;
}

const orNull = <T extends z.ZodType>(type: T) => type.nullish().transform((value) => value ?? null);
const token = z.int().min(0).max(0x7fff_ffff);

const common = {
  model: z.string().min(1).max(NAME_LENGTH_MAX),
  stream: orNull(z.boolean()),
  stream_options: orNull(z.object({ include_usage: z.boolean().nullish() })),
  temperature: orNull(z.number().min(0).max(2)),
  top_p: orNull(z.number().min(0).max(1)),
  seed: orNull(z.int()),
  presence_penalty: orNull(z.number().min(-2).max(2)),
  frequency_penalty: orNull(z.number().min(-2).max(2)),
  stop: orNull(z.union([z.string().max(STOP_LENGTH_MAX), z.array(z.string().max(STOP_LENGTH_MAX)).max(STOPS_MAX)])),
  max_tokens: orNull(z.int().min(1)),
  n: orNull(z.literal(1, { error: 'must be 1: the engine returns one answer per request' })),
  logit_bias: orNull(z.record(z.string(), z.never({ error: 'is not supported' }))),
  cache_salt: orNull(z.string().max(NAME_LENGTH_MAX)),
};

const textPart = z.object({
  type: z.enum(['text', 'refusal'], { error: 'must be "text": the engine supports neither images nor audio' }),
  text: z.string().optional(),
  refusal: z.string().optional(),
});
const content = z.union([z.string(), z.array(textPart)]).nullish();
const toolCall = z.object({
  id: z.string().optional(),
  type: z.literal('function').default('function'),
  function: z.object({ name: z.string(), arguments: z.string().default('{}') }),
});
const message = z.object({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  content,
  tool_calls: orNull(z.array(toolCall).max(TOOLS_MAX)),
});
const schema = z.record(z.string(), z.unknown());
const tool = z.object({
  type: z.literal('function', { error: 'must be "function": the engine itself runs no tools' }),
  function: z.object({
    name: z.string().regex(/^[A-Za-z0-9_.-]{1,64}$/, { error: 'must be 1–64 of A–Z a–z 0–9 _ . -' }),
    description: z.string().nullish(),
    parameters: schema.nullish(),
  }),
});

const chat = z.object({
  ...common,
  messages: z.array(message).min(1).max(MESSAGES_MAX),
  max_completion_tokens: orNull(z.int().min(1)),
  logprobs: orNull(z.literal(false, { error: 'is not supported' })),
  top_logprobs: orNull(z.literal(0, { error: 'is not supported' })),
  tools: orNull(z.array(tool).max(TOOLS_MAX)),
  tool_choice: orNull(
    z.union([
      z.enum(['none', 'auto', 'required']),
      z.object({ type: z.literal('function'), function: z.object({ name: z.string() }) }),
    ]),
  ),
  response_format: orNull(
    z.discriminatedUnion('type', [
      z.object({ type: z.literal('text') }),
      z.object({ type: z.literal('json_object') }),
      z.object({
        type: z.literal('json_schema'),
        json_schema: z.object({ schema: schema.optional(), strict: z.boolean().nullish() }),
      }),
    ]),
  ),
  modalities: orNull(z.array(z.literal('text', { error: 'must be "text"' }))),
  audio: orNull(z.never({ error: 'is not supported' })),
});

const completion = z.object({
  ...common,
  prompt: z.union([
    z.string(),
    z.array(z.string()).min(1).max(PROMPTS_MAX),
    z.array(token).min(1),
    z.array(z.array(token).min(1)).min(1).max(PROMPTS_MAX),
  ]),
  echo: orNull(z.boolean()),
  suffix: orNull(z.literal('', { error: 'is not supported: the engine only continues a text' })),
  best_of: orNull(z.literal(1, { error: 'must be 1' })),
  logprobs: orNull(z.never({ error: 'is not supported' })),
});

const embedding = z.object({
  model: z.string().min(1).max(NAME_LENGTH_MAX),
  input: z.union([
    z.string().min(1),
    z.array(z.string().min(1)).min(1).max(INPUTS_MAX),
    z.array(token).min(1),
    z.array(z.array(token).min(1)).min(1).max(INPUTS_MAX),
  ]),
  encoding_format: orNull(z.enum(['float', 'base64'])),
  dimensions: orNull(z.int().min(1)),
});

/** @throws EngineError `bad_request` with the wrong field */
export function parseChat(body: unknown): ChatRequest {
  const input = check(chat, body);
  const tools = (input.tools ?? []).map((one) => ({
    name: one.function.name,
    description: one.function.description ?? '',
    parameters: one.function.parameters ?? { type: 'object', properties: {} },
  }));
  const toolChoice = chosenTool(input.tool_choice, tools);
  const format = input.response_format;
  return {
    ...commonFields(input),
    maxTokens: input.max_completion_tokens ?? input.max_tokens,
    messages: input.messages.map(toMessage),
    tools,
    toolChoice,
    format:
      format?.type === 'json_object'
        ? { kind: 'json' }
        : format?.type === 'json_schema'
          ? { kind: 'schema', schema: format.json_schema.schema ?? {}, strict: format.json_schema.strict ?? false }
          : { kind: 'text' },
  };
}

/** @throws EngineError `bad_request` with the wrong field */
export function parseCompletion(body: unknown): CompletionRequest {
  const input = check(completion, body);
  return {
    ...commonFields(input),
    maxTokens: input.max_tokens,
    prompts: toList(input.prompt),
    echo: input.echo ?? false,
  };
}

/** @throws EngineError `bad_request` with the wrong field */
export function parseEmbedding(body: unknown): EmbeddingRequest {
  const input = check(embedding, body);
  return {
    model: input.model,
    inputs: toList(input.input),
    encoding: input.encoding_format ?? 'float',
    dimensions: input.dimensions,
  };
}

function check<T extends z.ZodType>(type: T, body: unknown): z.output<T> {
  const parsed = type.safeParse(body);
  if (parsed.success) return parsed.data;
  const issue = deepest(parsed.error.issues);
  const param = fieldPath(issue?.path ?? []);
  const message = issue?.message ?? 'is not valid';
  throw new EngineError('bad_request', param === '' ? message : `${param}: ${message}`, { param });
}

type Issue = z.core.$ZodIssue;

/** The issue with the longest path in a union, which names the wrong field. */
function deepest(issues: readonly Issue[]): Issue | undefined {
  const [issue] = issues;
  if (issue?.code !== 'invalid_union') return issue;
  let best: Issue = issue;
  for (const branch of issue.errors) {
    const inner = deepest(branch);
    if (inner === undefined) continue;
    const path = [...issue.path, ...inner.path];
    if (path.length > best.path.length) best = { ...inner, path };
  }
  return best;
}

function fieldPath(path: readonly PropertyKey[]): string {
  return path
    .map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`))
    .join('')
    .replace(/^\./, '');
}

type CommonInput = z.output<z.ZodObject<typeof common>>;

function commonFields(input: CommonInput): Omit<CommonRequest, 'maxTokens'> {
  const stop = input.stop ?? [];
  return {
    model: input.model,
    stream: input.stream ?? false,
    includeUsage: input.stream_options?.include_usage ?? false,
    sampling: {
      // Unlike OpenAI's 1: small models write nonsense at random, and programs need repeatable answers.
      temperature: input.temperature ?? 0,
      topP: input.top_p ?? 1,
      seed: input.seed,
      presencePenalty: input.presence_penalty ?? 0,
      frequencyPenalty: input.frequency_penalty ?? 0,
    },
    stops: (typeof stop === 'string' ? [stop] : stop).filter((one) => one !== ''),
    cacheSalt: input.cache_salt ?? '',
  };
}

function chosenTool(choice: z.output<typeof chat>['tool_choice'], tools: readonly Tool[]): ChatRequest['toolChoice'] {
  if (choice !== null && choice !== 'none' && choice !== 'auto' && tools.length === 0) {
    throw new EngineError('bad_request', 'tool_choice: requires a call, but the request has no tools', {
      param: 'tool_choice',
    });
  }
  if (tools.length === 0) return 'none';
  if (choice === null || typeof choice === 'string') return choice ?? 'auto';
  const { name } = choice.function;
  if (tools.some((one) => one.name === name)) return { name };
  throw new EngineError('bad_request', `tool_choice: the request has no tool ${JSON.stringify(name)}`, {
    param: 'tool_choice',
  });
}

function toMessage(input: z.output<typeof message>): Message {
  const parts = input.content ?? '';
  return {
    role: input.role === 'developer' ? 'system' : input.role,
    text: typeof parts === 'string' ? parts : parts.map((part) => part.text ?? part.refusal ?? '').join(''),
    calls: (input.tool_calls ?? []).map((call) => call.function),
  };
}

function toList(
  input: string | readonly string[] | readonly number[] | readonly (readonly number[])[],
): (string | readonly number[])[] {
  if (typeof input === 'string') return [input];
  const [first] = input;
  return typeof first === 'number' ? [input as readonly number[]] : [...(input as readonly string[])];
}
