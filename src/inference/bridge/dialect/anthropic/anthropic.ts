/**
 * Anthropic's Messages API: messages, count_tokens, models. Answers come from upstreams with the same API or OpenAI's.
 */

import { accepted, type Checked, type Refusal, refused } from '../../../../base/http/refusal.ts';
import { checkFields } from '../../fields.ts';
import { responseHeaders } from '../../headers.ts';
import { isJsonObject, type JsonObject } from '../../json-body.ts';
import type { BridgePolicy, ModelEntry } from '../../policy.ts';
import type { Dialect, Inspection, Operation, Route, TranslatedRequest } from '../dialect.ts';
import { estimateTokens } from '../estimate-tokens.ts';
import { modelRoute, targetPath, wrongMethod } from '../model-route.ts';
import { writeRequest } from '../openai/write-request.ts';
import { directRequest } from './direct-request.ts';
import { ANTHROPIC_FIELDS, ANTHROPIC_HAZARDS } from './fields.ts';
import { readRequest } from './read-request.ts';
import { AnthropicMessageWriter, AnthropicStreamWriter } from './write-answer.ts';

export const anthropicDialect: Dialect = {
  name: 'anthropic',
  route,
  inspect,
  status: errorStatus,
  error: (refusal) => JSON.stringify(errorObject(refusal)),
  errorEvent: (refusal) => `event: error\ndata: ${JSON.stringify(errorObject(refusal))}\n\n`,
  streamType: 'text/event-stream; charset=utf-8',
  keepAlive: 'event: ping\ndata: {"type": "ping"}\n\n',
  modelList: (models) => ({
    data: models.map(modelObject),
    has_more: false,
    first_id: models[0]?.id ?? null,
    last_id: models.at(-1)?.id ?? null,
  }),
  model: modelObject,
  translation: {
    request: translate,
    answer: (options) => (options.stream ? new AnthropicStreamWriter(options) : new AnthropicMessageWriter(options)),
    tokenCount: (tokens) => ({ input_tokens: tokens }),
    answerHeaders: (received) => {
      const { 'x-request-id': id } = responseHeaders(received);
      return id === undefined ? {} : { 'request-id': id };
    },
  },
  direct: { api: 'anthropic', request: directRequest },
};

type AnthropicOperation = Operation & { readonly name: keyof typeof ANTHROPIC_FIELDS };

const CHAT: AnthropicOperation = {
  name: 'chat',
  upstreamPath: '/chat/completions',
  required: ['messages'],
  generates: true,
};
const COUNT: AnthropicOperation = { ...CHAT, name: 'count_tokens', generates: false };

const ROUTES: Readonly<Record<string, Route>> = {
  '/messages': { kind: 'inference', operation: CHAT },
  '/messages/count_tokens': { kind: 'count', operation: COUNT },
};

/** True for requests of this API alone; its model lists have the paths of OpenAI's. */
export function isAnthropicPath(url: string): boolean {
  return /^\/messages(?:\/|$)/.test(targetPath(url));
}

function route(method: string, url: string): Checked<Route> {
  const path = targetPath(url);
  const found = Object.hasOwn(ROUTES, path) ? ROUTES[path] : undefined;
  if (found !== undefined) return method === 'POST' ? accepted(found) : wrongMethod(method, 'POST');
  return modelRoute(method, url, '/v1/messages, /v1/messages/count_tokens, /v1/models');
}

function inspect(operation: Operation, body: JsonObject, policy: BridgePolicy): Checked<Inspection> {
  const fields = ANTHROPIC_FIELDS[operation.name as AnthropicOperation['name']];
  const allowed = new Set(policy.allowFields);
  const checked = checkFields(body, fields, { hazards: ANTHROPIC_HAZARDS, allowed });
  if (!checked.ok) return checked;
  const { model, stream, metadata } = body;
  if (typeof model !== 'string') return invalid('model', 'must be a string');
  const user = isJsonObject(metadata) ? metadata['user_id'] : undefined;
  if (user !== undefined && user !== null && typeof user !== 'string') {
    return invalid('metadata.user_id', 'must be a string');
  }
  return accepted({
    model,
    stream: stream === true,
    hideUsage: true,
    // The translation's estimate is used instead.
    promptTokensEstimate: 0,
    bound: typeof user === 'string' ? { user } : {},
    edits: {},
  });
}

function translate(operation: Operation, body: JsonObject): Checked<TranslatedRequest> {
  const request = readRequest(body, operation.generates);
  if (!request.ok) return request;
  const { thinking } = body;
  const kind = isJsonObject(thinking) ? thinking['type'] : undefined;
  const display = isJsonObject(thinking) ? thinking['display'] : undefined;
  return accepted({
    body: writeRequest(request.value),
    promptTokensEstimate: estimateTokens(request.value),
    answer: {
      stop: request.value.stop,
      // Programs that did not ask for thinking expect text in the first block.
      reasoning: kind !== undefined && kind !== 'disabled' && display !== 'omitted',
    },
  });
}

function invalid(param: string, why: string): Checked<never> {
  return refused(400, 'invalid_value', `${param}: ${why}.`, { param });
}

const OVERLOADED = 529;

/** Distinguishes a busy model server from an absent one. */
function errorStatus({ status, code }: Refusal): number {
  const isAbsent = code === 'upstream_unreachable' || code === 'upstream_unavailable';
  return status === 503 && !isAbsent ? OVERLOADED : status;
}

const ERROR_TYPES: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  408: 'timeout_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  504: 'timeout_error',
  [OVERLOADED]: 'overloaded_error',
};

function errorObject(refusal: Refusal): unknown {
  const status = errorStatus(refusal);
  const type = ERROR_TYPES[status] ?? (status >= 500 || status < 400 ? 'api_error' : 'invalid_request_error');
  return { type: 'error', error: { type, message: refusal.message } };
}

function modelObject(model: ModelEntry): unknown {
  const createdAt = new Date(model.created * 1000);
  const time = Number.isNaN(createdAt.getTime()) ? new Date(0) : createdAt;
  return { type: 'model', id: model.id, display_name: model.id, created_at: time.toISOString() };
}
