/**
 * The OpenAI API: chat completions, completions, embeddings, audio, models; and rerank, which model servers add to it.
 */

import { accepted, type Checked, type Refusal, refused } from '../../../../base/http/refusal.ts';
import { type AllowedFields, checkFields } from '../../fields.ts';
import { responseHeaders } from '../../headers.ts';
import { isJsonObject, type JsonObject } from '../../json-body.ts';
import type { BridgePolicy, ModelEntry } from '../../policy.ts';
import type { Dialect, ForeignTranslation, Inspection, Operation, Route } from '../dialect.ts';
import { modelRoute, targetPath, wrongMethod } from '../model-route.ts';
import { BOUND_FIELDS, OPENAI_FIELDS, OPENAI_HAZARDS } from './fields.ts';
import { readChatRequest } from './read-request.ts';
import { ChatAnswerWriter } from './write-answer.ts';

export const openaiDialect: Dialect = {
  name: 'openai',
  route,
  inspect,
  status: ({ status }) => status,
  error: (refusal) => JSON.stringify(errorObject(refusal)),
  errorEvent: (refusal) => `data: ${JSON.stringify(errorObject(refusal))}\n\n`,
  streamType: 'text/event-stream; charset=utf-8',
  keepAlive: ': keep-alive\n\n',
  modelList: (models) => ({ object: 'list', data: models.map(modelObject) }),
  model: modelObject,
  foreign: {
    read: readForeign,
    answer: (options) => new ChatAnswerWriter(options),
    answerHeaders: (received) => {
      const { 'request-id': id } = responseHeaders(received);
      return id === undefined ? {} : { 'x-request-id': id };
    },
  },
};

type OpenaiOperation = Operation & { readonly name: keyof typeof OPENAI_FIELDS };

const RERANK: OpenaiOperation = { name: 'rerank', upstreamPath: '/rerank', required: ['documents'], generates: false };

const OPERATIONS: Readonly<Record<string, OpenaiOperation>> = {
  '/chat/completions': { name: 'chat', upstreamPath: '/chat/completions', required: ['messages'], generates: true },
  '/completions': { name: 'completions', upstreamPath: '/completions', required: ['prompt'], generates: true },
  '/embeddings': {
    name: 'embeddings',
    upstreamPath: '/embeddings',
    // vLLM accepts `messages` for models that embed images.
    required: ['input', 'messages'],
    generates: false,
  },
  '/audio/speech': {
    name: 'speech',
    upstreamPath: '/audio/speech',
    required: ['input'],
    generates: false,
    audio: 'out',
  },
  '/audio/transcriptions': {
    name: 'transcription',
    upstreamPath: '/audio/transcriptions',
    required: ['file'],
    generates: false,
    audio: 'in',
  },
  '/audio/translations': {
    name: 'translation',
    upstreamPath: '/audio/translations',
    required: ['file'],
    generates: false,
    audio: 'in',
  },
  '/rerank': RERANK,
  // Used by Cohere's clients.
  '/v2/rerank': RERANK,
};

function route(method: string, url: string): Checked<Route> {
  const path = targetPath(url);
  const operation = Object.hasOwn(OPERATIONS, path) ? OPERATIONS[path] : undefined;
  if (operation === undefined) {
    return modelRoute(
      method,
      url,
      '/v1/chat/completions, /v1/completions, /v1/embeddings, /v1/audio/speech, /v1/audio/transcriptions, /v1/audio/translations, /v1/rerank, /v1/responses, /v1/messages, /v1/models',
    );
  }
  if (method === 'POST') return accepted({ kind: 'inference', operation });
  return wrongMethod(method, 'POST');
}

function inspect(operation: Operation, body: JsonObject, policy: BridgePolicy): Checked<Inspection> {
  const allowed = new Set(policy.allowFields);
  const fields = OPENAI_FIELDS[operation.name as OpenaiOperation['name']];
  const prompt = checkFields(body, fields, { hazards: OPENAI_HAZARDS, allowed });
  if (!prompt.ok) return prompt;
  if (!operation.required.some((name) => body[name] !== undefined && body[name] !== null)) {
    return invalid(operation.required[0] ?? '', 'is missing');
  }
  const { model, stream } = body;
  if (!isOptional(model, 'string')) return invalid('model', 'must be a string');
  if (!isOptional(stream, 'boolean')) return invalid('stream', 'must be true or false');
  if (operation.required[0] === 'messages' && !Array.isArray(body['messages'])) {
    return invalid('messages', 'must be a list');
  }
  if (!isOptionalList(body['tools'])) return invalid('tools', 'must be a list');
  const bound = boundFields(body, allowed);
  if (!bound.ok) return bound;
  const usage = usageEdits(operation, stream === true, body['stream_options']);
  return accepted({
    model: typeof model === 'string' ? model : undefined,
    stream: stream === true,
    ...usage,
    bound: bound.value,
    promptTokensEstimate: prompt.value,
  });
}

function readForeign({ name }: Operation, body: JsonObject): ReturnType<ForeignTranslation['read']> {
  if (name !== 'chat') return undefined;
  const read = readChatRequest(body);
  if (!read.ok) return read;
  const { stream_options: options } = body;
  const usageChunk = isJsonObject(options) && options['include_usage'] === true;
  const conversation = read.value;
  return accepted({ conversation, answer: { stop: conversation.stop, reasoning: true, usageChunk } });
}

function boundFields(body: JsonObject, allowed: AllowedFields): Checked<Readonly<Record<string, string>>> {
  const bound: Record<string, string> = {};
  for (const name of BOUND_FIELDS) {
    const value = body[name];
    if (value === undefined || value === null || allowed.has(name)) continue;
    if (typeof value !== 'string') return invalid(name, 'must be a string');
    bound[name] = value;
  }
  return accepted(bound);
}

/** Requests the usage of a stream from the upstream, even if the client did not. */
function usageEdits(operation: Operation, stream: boolean, options: unknown): Pick<Inspection, 'hideUsage' | 'edits'> {
  const given = options ?? {};
  // Passed unchanged: the upstream refuses options of another shape.
  if (!stream || !operation.generates || !isJsonObject(given)) {
    return { hideUsage: false, edits: {} };
  }
  if (given['include_usage'] === true) return { hideUsage: false, edits: {} };
  return { hideUsage: true, edits: { stream_options: { ...given, include_usage: true } } };
}

function isOptional(value: unknown, type: 'string' | 'boolean'): boolean {
  return value === undefined || value === null || typeof value === type;
}

function isOptionalList(value: unknown): boolean {
  return value === undefined || value === null || Array.isArray(value);
}

function invalid(param: string, why: string): Checked<never> {
  return refused(400, 'invalid_value', `"${param}" ${why}.`, { param });
}

function errorObject(refusal: Refusal): unknown {
  const { message, param, code } = refusal;
  return { error: { message, type: errorType(refusal), param: param ?? null, code } };
}

function errorType({ status, code }: Refusal): string {
  // OpenAI's own code for it. Codex distinguishes it from a rate limit, and shows no message of a 429.
  if (code === 'budget_spent') return 'insufficient_quota';
  if (status === 429) return 'rate_limit_error';
  return status >= 500 ? 'server_error' : 'invalid_request_error';
}

function modelObject(model: ModelEntry): unknown {
  return { id: model.id, object: 'model', created: model.created, owned_by: model.ownedBy };
}
