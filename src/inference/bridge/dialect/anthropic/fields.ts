/**
 * The fields of Anthropic's Messages API that a sandbox may send. Their types are checked, and what goes upstream is written
 * anew, by `read-request.ts`. docs/reference/messages.md explains them; a test compares.
 */
import { type Fields, type Hazards, hazards, LABEL, labels, object } from '../../fields.ts';

const CACHE_CONTROL = object(labels('type ttl scope'));

const LEAF: Fields = {
  ...labels('type title context tool_name text'),
  source: object(labels('type media_type data')),
  citations: 'open',
  transformations: 'open',
  cache_control: CACHE_CONTROL,
};

const BLOCK: Fields = {
  ...LEAF,
  ...labels('id name tool_use_id toolset_name is_error signature data thinking'),
  input: 'open',
  caller: 'open',
  content: object(LEAF, 'label'),
};

const TOOL: Fields = {
  ...labels('type name strict defer_loading eager_input_streaming allowed_callers description'),
  input_schema: 'open',
  input_examples: 'open',
  cache_control: CACHE_CONTROL,
};

const COUNTED: Fields = {
  model: LABEL,
  // Claude Code sets the effort per message.
  messages: object({ role: LABEL, content: object(BLOCK, 'label'), output_config: 'open' }),
  system: object(LEAF, 'label'),
  tools: object(TOOL),
  tool_choice: object(labels('type name disable_parallel_tool_use')),
  thinking: object(labels('type budget_tokens display')),
  output_config: object({ effort: LABEL, format: object({ type: LABEL, schema: 'open' }) }),
  output_format: object({ type: LABEL, schema: 'open' }),
  // How Anthropic's servers shorten long conversations.
  context_management: 'open',
  diagnostics: 'open',
  cache_control: CACHE_CONTROL,
  betas: LABEL,
  speed: LABEL,
};

export const ANTHROPIC_FIELDS = {
  chat: {
    ...COUNTED,
    ...labels('max_tokens stream temperature top_p top_k stop_sequences inference_geo'),
    metadata: object(labels('user_id')),
    service_tier: { strings: 'label', only: ['auto', 'standard_only'] },
  },
  count_tokens: COUNTED,
} as const satisfies Readonly<Record<string, Fields>>;

/** Fields known to be dangerous, in lower case; their errors explain more than those of unknown fields. */
export const ANTHROPIC_HAZARDS: Hazards = new Map([
  ...hazards(
    'remote_media_refused',
    'the model server would fetch it from the host network; read it in the sandbox and send it as base64',
    'url',
  ),
  ...hazards(
    'file_reference_refused',
    "it refers to an object in the host's account; send the content inline",
    'file_id container thread user_profile_id workspace_id',
  ),
  ...hazards(
    'provider_tool_refused',
    'a tool that the model server runs would give the sandbox a way to the network; run the tool in the sandbox',
    'mcp_servers mcp_server_name allowed_domains blocked_domains user_location max_uses',
  ),
  ...hazards('field_refused', 'it names models past the allowlist', 'fallbacks'),
]);
