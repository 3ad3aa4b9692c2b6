/**
 * The fields of Ollama's API that a sandbox may send. Their types are checked, and what goes upstream is written anew, by
 * `read-request.ts`. docs/reference/ollama.md explains them; a test compares.
 */
import { type Fields, type Hazards, labels, object, type Shape } from '../../fields.ts';

const BASE64: Shape = { strings: 'base64' };

/** The options that go upstream, and the others of any Ollama version. */
const OPTIONS = object(
  labels(
    'temperature top_p top_k min_p seed stop num_predict presence_penalty frequency_penalty ' +
      'num_ctx num_batch num_gpu main_gpu num_thread num_keep typical_p tfs_z repeat_last_n repeat_penalty mirostat ' +
      'mirostat_tau mirostat_eta penalize_newline numa low_vram f16_kv logits_all vocab_only use_mmap use_mlock ' +
      'embedding_only',
  ),
);

const ANY: Fields = { ...labels('model keep_alive'), options: OPTIONS };

const GENERATION: Fields = {
  ...ANY,
  ...labels('stream think truncate shift top_logprobs'),
  format: 'open',
  logprobs: { only: [false] },
};

const TOOL_CALL: Fields = {
  ...labels('id type'),
  function: object({ ...labels('index name description'), arguments: 'open' }),
};

const MESSAGE: Fields = {
  ...labels('role content thinking tool_name tool_call_id name'),
  images: BASE64,
  tool_calls: object(TOOL_CALL),
};

const TOOL: Fields = {
  type: { strings: 'label', only: ['function'] },
  function: object({ ...labels('name description strict'), parameters: 'open' }),
  items: 'open',
};

export const OLLAMA_FIELDS = {
  chat: { ...GENERATION, messages: object(MESSAGE), tools: object(TOOL) },
  generate: { ...GENERATION, ...labels('prompt system suffix template raw context'), images: BASE64 },
  embed: { ...ANY, ...labels('input truncate dimensions') },
  embeddings: { ...ANY, ...labels('prompt truncate dimensions') },
  show: { ...labels('model name verbose system template'), options: OPTIONS },
} as const satisfies Readonly<Record<string, Fields>>;

/**
 * Fields known to be dangerous or impossible, in lower case; their errors explain more than those of unknown fields.
 */
export const OLLAMA_HAZARDS: Hazards = new Map([
  [
    'tools.type',
    {
      code: 'provider_tool_refused',
      why: 'a tool that the model server runs would give the sandbox a way to the network; offer it as "function"',
    },
  ],
  ['logprobs', { code: 'field_refused', why: 'a translated answer has none; use /v1' }],
]);
