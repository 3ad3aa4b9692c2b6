/** The OpenAI API: chat completions, completions, embeddings, models. */
import { isJsonObject, type JsonObject } from '../json-body.ts';
import { foldKey, inspectMedia } from '../media.ts';
import type { BridgePolicy, ModelEntry } from '../policy.ts';
import { accepted, type Checked, type Refusal, refused } from '../refusal.ts';
import type { Dialect, Inspection, Operation, Route } from './dialect.ts';

export const openaiDialect: Dialect = {
  name: 'openai',
  route,
  inspect,
  error: (refusal) => JSON.stringify(errorObject(refusal)),
  errorEvent: (refusal) => `data: ${JSON.stringify(errorObject(refusal))}\n\n`,
  keepAlive: ': keep-alive\n\n',
  modelList: (models) => ({ object: 'list', data: models.map(modelObject) }),
  model: modelObject,
};

const OPERATIONS: Readonly<Record<string, Operation>> = {
  '/chat/completions': {
    name: 'chat',
    upstreamPath: '/chat/completions',
    required: ['messages'],
    generates: true,
  },
  '/completions': {
    name: 'completions',
    upstreamPath: '/completions',
    required: ['prompt'],
    generates: true,
  },
  '/embeddings': {
    name: 'embeddings',
    upstreamPath: '/embeddings',
    // vLLM accepts `messages` for models that embed images.
    required: ['input', 'messages'],
    generates: false,
  },
};

const MODEL_ID_CHARACTERS_MAX = 256;
const PATH_CHARACTERS_SHOWN_MAX = 100;

/**
 * Compares paths and never normalizes or forwards them, so no spelling can reach another upstream path.
 * `/v1` may be missing: a base URL without it is the most common mistake in client configuration.
 */
function route(method: string, url: string): Checked<Route> {
  if (!url.startsWith('/') || url.startsWith('//')) {
    return refused(400, 'bad_target', 'The request target is not a path.');
  }
  const path = (url.split('?', 1)[0] ?? '').replace(/^\/v1(?=\/)/, '').replace(/(?<=.)\/$/, '');
  const operation = Object.hasOwn(OPERATIONS, path) ? OPERATIONS[path] : undefined;
  if (operation !== undefined) {
    if (method === 'POST') return accepted({ kind: 'inference', operation });
    return wrongMethod(method, 'POST');
  }
  const id = path === '/models' ? '' : modelId(path);
  if (id === undefined) {
    const shown = JSON.stringify(url.slice(0, PATH_CHARACTERS_SHOWN_MAX));
    const known = '/v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models';
    return refused(404, 'unknown_url', `Unknown path ${shown}. Use one of ${known}.`);
  }
  if (method !== 'GET') return wrongMethod(method, 'GET');
  return accepted(id === '' ? { kind: 'models' } : { kind: 'model', id });
}

/** Model names may contain slashes, plain or escaped. They are looked up, never forwarded. */
function modelId(path: string): string | undefined {
  const match = /^\/models\/(.+)$/.exec(path);
  if (match?.[1] === undefined) return undefined;
  try {
    const id = decodeURIComponent(match[1]);
    return id.length <= MODEL_ID_CHARACTERS_MAX ? id : undefined;
  } catch (error) {
    if (error instanceof URIError) return undefined;
    throw error;
  }
}

function wrongMethod(method: string, allowed: string): Checked<never> {
  const message = `Method ${method.slice(0, 20)} is not allowed; use ${allowed}.`;
  return refused(405, 'method_not_allowed', message);
}

/**
 * Fields with which a request would escape its limits on some upstream: other hosts and files of the host
 * (SSRF, code), models outside the allowlist, other sandboxes' caches and queues.
 */
const REFUSED_FIELDS = new Set([
  'kv_transfer_params',
  'ec_transfer_params',
  'bootstrap_host',
  'bootstrap_port',
  'bootstrap_room',
  'api_base',
  'base_url',
  'api_key',
  'callback_url',
  'webhook',
  'lora_path',
  'lora',
  'lora_request',
  'custom_logit_processor',
  'logits_processors',
  'models',
  'fallbacks',
  'provider',
  'route',
  'cache_salt',
  'extra_key',
  'session_params',
  'priority',
  'id_slot',
  'slot_id',
]);

/** Fields that make the upstream run its own tools: a way out of a sandbox without a network (B13). */
const PROVIDER_TOOL_FIELDS = new Set([
  'web_search_options',
  'search_parameters',
  'mcp_servers',
  'plugins',
  'data_sources',
]);

/** Fields that the checks below read. Another spelling of one is refused, see `foldKey`. */
const READ_FIELDS = new Set([
  'model',
  'stream',
  'stream_options',
  'tools',
  'messages',
  'prompt',
  'input',
]);

function inspect(
  operation: Operation,
  body: JsonObject,
  policy: BridgePolicy,
): Checked<Inspection> {
  const fields = checkFields(body, policy);
  if (!fields.ok) return fields;
  if (!operation.required.some((name) => body[name] !== undefined && body[name] !== null)) {
    return invalid(operation.required[0] ?? '', 'is missing');
  }
  const { model, stream } = body;
  if (!isOptional(model, 'string')) return invalid('model', 'must be a string');
  if (!isOptional(stream, 'boolean')) return invalid('stream', 'must be true or false');
  if (operation.required[0] === 'messages' && !Array.isArray(body['messages'])) {
    return invalid('messages', 'must be a list');
  }
  const tools = policy.allowProviderTools ? accepted(undefined) : checkTools(body['tools']);
  if (!tools.ok) return tools;
  const prompt = inspectMedia(body);
  if (!prompt.ok) return prompt;
  const usage = usageEdits(operation, stream === true, body['stream_options']);
  return accepted({
    model: typeof model === 'string' ? model : undefined,
    stream: stream === true,
    ...usage,
    promptTokensEstimate: prompt.value,
  });
}

function checkFields(body: JsonObject, policy: BridgePolicy): Checked<void> {
  for (const key of Object.keys(body)) {
    const folded = foldKey(key);
    if (key !== folded && READ_FIELDS.has(folded)) return invalid(folded, 'is misspelled');
    if (REFUSED_FIELDS.has(folded)) {
      return refused(400, 'field_refused', `A sandbox may not set "${folded}". Remove the field.`, {
        param: folded,
      });
    }
    if (PROVIDER_TOOL_FIELDS.has(folded) && !policy.allowProviderTools) return toolRefused(folded);
  }
  return accepted(undefined);
}

/** Accepts tools that the client runs; the upstream would run all others. */
function checkTools(tools: unknown): Checked<void> {
  if (tools === undefined || tools === null) return accepted(undefined);
  if (!Array.isArray(tools)) return invalid('tools', 'must be a list');
  for (const tool of tools) {
    const type = isJsonObject(tool) ? tool['type'] : undefined;
    if (type === 'function' || type === 'custom') continue;
    return toolRefused(typeof type === 'string' ? type.slice(0, 40) : 'a tool without a type');
  }
  return accepted(undefined);
}

function toolRefused(what: string): Checked<never> {
  const message =
    `Tools that the model server runs are refused ("${what}"): they would give the sandbox a way to the ` +
    'network. Run the tool in the sandbox and offer it as type "function".';
  return refused(400, 'provider_tool_refused', message, { param: 'tools' });
}

/** Requests the usage of a stream from the upstream, even if the client did not. */
function usageEdits(
  operation: Operation,
  stream: boolean,
  options: unknown,
): Pick<Inspection, 'hideUsage' | 'edits'> {
  const given = options ?? {};
  // The upstream refuses options of another shape.
  if (!stream || !operation.generates || !isJsonObject(given)) {
    return { hideUsage: false, edits: {} };
  }
  if (given['include_usage'] === true) return { hideUsage: false, edits: {} };
  return { hideUsage: true, edits: { stream_options: { ...given, include_usage: true } } };
}

function isOptional(value: unknown, type: 'string' | 'boolean'): boolean {
  return value === undefined || value === null || typeof value === type;
}

function invalid(param: string, why: string): Checked<never> {
  return refused(400, 'invalid_value', `"${param}" ${why}.`, { param });
}

/** The error object that OpenAI's SDKs turn into exceptions. */
function errorObject(refusal: Refusal): unknown {
  const { message, param, code } = refusal;
  return { error: { message, type: errorType(refusal.status), param: param ?? null, code } };
}

function errorType(status: number): string {
  if (status === 429) return 'rate_limit_error';
  return status >= 500 ? 'server_error' : 'invalid_request_error';
}

function modelObject(model: ModelEntry): unknown {
  return { id: model.id, object: 'model', created: model.created, owned_by: model.ownedBy };
}
