/** OpenAI's Responses API. Answers come from an upstream with chat completions. */

import { accepted, type Checked, refused } from '../../../../base/http/refusal.ts';
import { checkFields } from '../../fields.ts';
import { responseHeaders } from '../../headers.ts';
import type { JsonObject } from '../../json-body.ts';
import type { KeptAnswers } from '../../kept-answers.ts';
import type { BridgePolicy } from '../../policy.ts';
import type { Dialect, Inspection, KeptContext, Operation, Route, TranslatedRequest } from '../dialect.ts';
import { estimateTokens } from '../estimate-tokens.ts';
import { targetPath, wrongMethod } from '../model-route.ts';
import { openaiDialect } from '../openai/openai.ts';
import { writeRequest } from '../openai/write-request.ts';
import { RESPONSES_FIELDS, RESPONSES_HAZARDS } from './fields.ts';
import { deleteKept, findKept, listKept, readKept } from './kept-responses.ts';
import { NO_COMPACTION } from './read-items.ts';
import { readNeeds, readRequest } from './read-request.ts';
import { failureEvents, ResponsesWriter } from './write-answer.ts';

export const responsesDialect: Dialect = {
  name: 'responses',
  route,
  inspect,
  status: openaiDialect.status,
  error: openaiDialect.error,
  errorEvent: failureEvents,
  streamType: openaiDialect.streamType,
  keepAlive: openaiDialect.keepAlive,
  modelList: openaiDialect.modelList,
  model: openaiDialect.model,
  translation: {
    request: translate,
    needs: readNeeds,
    find: findKept,
    answer: (options) => new ResponsesWriter(options),
    tokenCount: (tokens) => ({ object: 'response.input_tokens', input_tokens: tokens }),
    answerHeaders: (received) => {
      const { 'x-request-id': id } = responseHeaders(received);
      return id === undefined ? {} : { 'x-request-id': id };
    },
  },
};

type ResponsesOperation = Operation & { readonly name: keyof typeof RESPONSES_FIELDS };

const CREATE: ResponsesOperation = {
  name: 'responses',
  upstreamPath: '/chat/completions',
  required: ['input'],
  generates: true,
};
const COUNT: ResponsesOperation = { ...CREATE, name: 'input_tokens', generates: false };

export function isResponsesPath(url: string): boolean {
  return /^\/responses(?:\/|$)/.test(targetPath(url));
}

const KEPT = /^\/responses\/([\w-]{1,100})(\/input_items)?$/;
const NO_JOBS = 'An answer ends with its request: close the connection to cancel it.';

function route(method: string, url: string): Checked<Route> {
  const path = targetPath(url);
  if (path === '/responses' || path === '/responses/input_tokens') {
    if (method !== 'POST') return wrongMethod(method, 'POST');
    return accepted(
      path === '/responses' ? { kind: 'inference', operation: CREATE } : { kind: 'count', operation: COUNT },
    );
  }
  const [, id, list] = KEPT.exec(path) ?? [];
  const isCompact = path === '/responses/compact';
  if (id === undefined || isCompact) {
    const known = '/v1/responses, /v1/responses/{id}, /v1/responses/{id}/input_items';
    const more = path.endsWith('/cancel') ? ` ${NO_JOBS}` : isCompact ? ` Here ${NO_COMPACTION}.` : '';
    return refused(404, 'unknown_url', `Unknown path. Use one of ${known}.${more}`);
  }
  if (list !== undefined) {
    if (method !== 'GET') return wrongMethod(method, 'GET');
    const query = new URLSearchParams(url.split('?')[1] ?? '');
    return keptRoute((kept) => listKept(kept, id, query));
  }
  if (method === 'GET') return keptRoute((kept) => readKept(kept, id));
  if (method === 'DELETE') return keptRoute((kept) => deleteKept(kept, id));
  return wrongMethod(method, 'GET or DELETE');
}

function keptRoute(serve: (kept: KeptAnswers) => Checked<string>): Checked<Route> {
  return accepted({ kind: 'kept', serve });
}

function inspect(operation: Operation, body: JsonObject, policy: BridgePolicy): Checked<Inspection> {
  const fields = RESPONSES_FIELDS[operation.name as ResponsesOperation['name']];
  const allowed = new Set(policy.allowFields);
  const checked = checkFields(body, fields, { hazards: RESPONSES_HAZARDS, allowed });
  if (!checked.ok) return checked;
  const { model, stream, user, safety_identifier: identifier } = body;
  if (model !== undefined && model !== null && typeof model !== 'string') {
    return refused(400, 'invalid_value', 'model: must be a string.', { param: 'model' });
  }
  const label = identifier ?? user;
  return accepted({
    model: typeof model === 'string' ? model : undefined,
    stream: stream === true,
    hideUsage: true,
    // The translation's estimate is used instead.
    promptTokensEstimate: 0,
    bound: typeof label === 'string' ? { user: label } : {},
    edits: {},
  });
}

const NOTHING_KEPT: KeptContext = { conversation: [], items: [], characters: 0 };

function translate(_operation: Operation, body: JsonObject, kept = NOTHING_KEPT): Checked<TranslatedRequest> {
  const read = readRequest(body, kept);
  if (!read.ok) return read;
  const { conversation, answer, keep } = read.value;
  return accepted({
    conversation,
    body: writeRequest(conversation),
    promptTokensEstimate: estimateTokens(conversation),
    answer,
    keep,
  });
}
