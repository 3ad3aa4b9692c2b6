/** Ollama's API: chat, generate, embeddings, models. Answers come from an upstream with OpenAI's API. */

import { accepted, type Checked, type Refusal, refused } from '../../../../base/http/refusal.ts';
import { checkFields } from '../../fields.ts';
import type { JsonObject } from '../../json-body.ts';
import type { BridgePolicy } from '../../policy.ts';
import { estimatedTokens } from '../../token-estimate.ts';
import type { Dialect, Inspection, Operation, Route, TranslatedRequest } from '../dialect.ts';
import { estimateTokens } from '../estimate-tokens.ts';
import { targetPath, wrongMethod } from '../model-route.ts';
import { writeRequest } from '../openai/write-request.ts';
import { OLLAMA_FIELDS, OLLAMA_HAZARDS } from './fields.ts';
import { modelList, shownModel } from './models.ts';
import { readChat, readGenerate, readInputs } from './read-request.ts';
import { createdAt, OllamaAnswerWriter, OllamaVectorWriter, saidFields } from './write-answer.ts';

/** The Ollama version whose API this is; clients ask for a minimum. */
const VERSION = '0.17.4';
const PATH_CHARACTERS_SHOWN_MAX = 100;

export const ollamaDialect: Dialect = {
  name: 'ollama',
  route,
  inspect,
  status: ({ status }) => status,
  error: (refusal) => JSON.stringify(errorObject(refusal)),
  errorEvent: (refusal) => `${JSON.stringify(errorObject(refusal))}\n`,
  streamType: 'application/x-ndjson',
  // Clients parse each line.
  keepAlive: '',
  modelList,
  model: shownModel,
  translation: {
    request: translate,
    answer: (options) =>
      options.operation.generates ? new OllamaAnswerWriter(options) : new OllamaVectorWriter(options),
    idle,
    answerHeaders: () => ({}),
  },
};

type Name = keyof typeof OLLAMA_FIELDS;
type OllamaOperation = Operation & { readonly name: Name };

const generation = (name: Name): OllamaOperation => ({
  name,
  upstreamPath: '/chat/completions',
  required: [],
  generates: true,
});
const embedding = (name: Name): OllamaOperation => ({
  name,
  upstreamPath: '/embeddings',
  required: [],
  generates: false,
});

const fixed = (contentType: string, body: string): Route => ({ kind: 'fixed', contentType, body });
const JSON_TYPE = 'application/json; charset=utf-8';

const READ: Readonly<Record<string, Route>> = {
  '/': fixed('text/plain; charset=utf-8', 'Ollama is running'),
  '/api/version': fixed(JSON_TYPE, JSON.stringify({ version: VERSION })),
  '/api/tags': { kind: 'models' },
  // The models in the server's memory would reveal what other sandboxes use.
  '/api/ps': fixed(JSON_TYPE, JSON.stringify({ models: [] })),
};
const SENT: Readonly<Record<string, Route>> = {
  '/api/chat': { kind: 'inference', operation: generation('chat') },
  '/api/generate': { kind: 'inference', operation: generation('generate') },
  '/api/embed': { kind: 'inference', operation: embedding('embed') },
  '/api/embeddings': { kind: 'inference', operation: embedding('embeddings') },
  '/api/show': { kind: 'describe', operation: embedding('show') },
};
/** Paths that change the models or the account of the host. */
const MANAGED = /^\/api\/(?:pull|push|create|delete|copy|blobs|me|signout|user|experimental)(?:\/|$)/;

export function isOllamaPath(url: string): boolean {
  const path = targetPath(url);
  return path === '/' || path === '/api' || path.startsWith('/api/');
}

function route(method: string, url: string): Checked<Route> {
  const path = targetPath(url);
  if (MANAGED.test(path)) {
    const message = `A sandbox may not change the models of the host: ${method.slice(0, 20)} ${path.split('/', 3).join('/')} is refused.`;
    return refused(403, 'model_management_refused', message);
  }
  const read = Object.hasOwn(READ, path) ? READ[path] : undefined;
  if (read !== undefined) {
    return method === 'GET' || method === 'HEAD' ? accepted(read) : wrongMethod(method, 'GET');
  }
  const sent = Object.hasOwn(SENT, path) ? SENT[path] : undefined;
  if (sent !== undefined) return method === 'POST' ? accepted(sent) : wrongMethod(method, 'POST');
  const shown = JSON.stringify(url.slice(0, PATH_CHARACTERS_SHOWN_MAX));
  const known = [...Object.keys(SENT), ...Object.keys(READ)].join(', ');
  return refused(404, 'unknown_url', `Unknown path ${shown}. Use one of ${known}.`);
}

function inspect(operation: Operation, body: JsonObject, policy: BridgePolicy): Checked<Inspection> {
  const name = operation.name as Name;
  const allowed = new Set(policy.allowFields);
  const checked = checkFields(body, OLLAMA_FIELDS[name], { hazards: OLLAMA_HAZARDS, allowed });
  if (!checked.ok) return checked;
  const { stream } = body;
  const model = name === 'show' ? body['model'] || body['name'] : body['model'];
  if (typeof model !== 'string') return invalid('model', 'must be a string');
  if (stream !== undefined && stream !== null && typeof stream !== 'boolean') {
    return invalid('stream', 'must be true or false');
  }
  return accepted({
    model,
    stream: operation.generates && stream !== false,
    hideUsage: true,
    // The translation's estimate is used instead.
    promptTokensEstimate: 0,
    bound: {},
    edits: {},
    ...(hasPrompt(name, body) ? {} : { idle: isUnload(body['keep_alive']) ? 'unload' : 'load' }),
  });
}

const PROMPTS: Readonly<Record<Name, string>> = {
  chat: 'messages',
  generate: 'prompt',
  embed: 'input',
  embeddings: 'prompt',
  show: 'model',
};

function hasPrompt(name: Name, body: JsonObject): boolean {
  const value = body[PROMPTS[name]] ?? '';
  return value !== '' && !(Array.isArray(value) && value.length === 0);
}

/** `keep_alive` is a number of seconds or a Go duration. */
function isUnload(keepAlive: unknown): boolean {
  return keepAlive === 0 || (typeof keepAlive === 'string' && /^0+(?:ns|us|ms|s|m|h)?$/.test(keepAlive));
}

function translate({ name, generates }: Operation, body: JsonObject): Checked<TranslatedRequest | undefined> {
  if (name === 'show') return accepted(undefined);
  if (!generates) return translateEmbedding(name, body);
  const request = name === 'generate' ? readGenerate(body) : readChat(body);
  if (!request.ok) return request;
  // Requests without a prompt are checked as well.
  if (!hasPrompt(name as Name, body)) return accepted(undefined);
  return accepted({
    conversation: request.value,
    body: writeRequest(request.value),
    promptTokensEstimate: estimateTokens(request.value),
    answer: {
      stop: request.value.stop,
      // Apart from the text, where clients that do not know reasoning ignore it.
      reasoning: body['think'] !== false,
    },
  });
}

function translateEmbedding(name: string, body: JsonObject): Checked<TranslatedRequest | undefined> {
  const inputs = readInputs(body, name === 'embed' ? 'input' : 'prompt');
  if (!inputs.ok) return inputs;
  const { model, dimensions } = body;
  const texts = inputs.value;
  if (texts.length === 0) return accepted(undefined);
  return accepted({
    body: {
      model,
      input: texts,
      encoding_format: 'float',
      ...(typeof dimensions === 'number' && dimensions > 0 ? { dimensions } : {}),
    },
    promptTokensEstimate: estimatedTokens(texts.reduce((sum, one) => sum + one.length, 0)),
    answer: { stop: [], reasoning: false, vectors: texts.length },
  });
}

function idle(
  options: Parameters<NonNullable<NonNullable<Dialect['translation']>['idle']>>[0],
  kind: 'load' | 'unload',
): unknown {
  const { operation, model } = options;
  if (operation.name === 'embeddings') return { embedding: [] };
  if (operation.name === 'embed') return { model, embeddings: [] };
  const answer = { ...saidFields(operation.name, {}), done: true, done_reason: kind };
  return { model, created_at: createdAt(options), ...answer };
}

function invalid(param: string, why: string): Checked<never> {
  return refused(400, 'invalid_value', `${param}: ${why}.`, { param });
}

function errorObject({ message }: Refusal): unknown {
  return { error: message };
}
