/**
 * The fields of OpenAI's Responses API that a sandbox may send. Their types are checked, and what goes upstream is written
 * anew, by `read-request.ts`. docs/reference/responses.md explains them; a test compares.
 */
import { type Fields, type Hazards, hazards, LABEL, labels, object, type Shape } from '../../fields.ts';

const PROSE: Shape = { strings: 'prose' };
const CACHE_MARK = object(labels('mode ttl'));

const PART: Fields = {
  ...labels('type detail'),
  text: PROSE,
  refusal: PROSE,
  image_url: { strings: 'media' },
  annotations: 'open',
  logprobs: 'open',
  parsed: 'open',
  prompt_cache_breakpoint: CACHE_MARK,
};

const ITEM: Fields = {
  ...labels('type id role status phase call_id name namespace async encrypted_content'),
  content: object(PART, 'prose'),
  summary: object({ type: LABEL, text: PROSE }),
  arguments: PROSE,
  parsed_arguments: 'open',
  input: PROSE,
  output: object(PART, 'prose'),
  caller: object(labels('type caller_id')),
  action: object({ ...labels('type command timeout_ms user working_directory'), env: { others: LABEL } }),
  // Sent by Codex for OpenAI's own records.
  internal_chat_message_metadata_passthrough: 'open',
};

const DEFINITION: Fields = {
  ...labels('name strict async defer_loading allowed_callers'),
  description: PROSE,
  parameters: 'open',
  output_schema: 'open',
  // Grammar of a custom tool's text.
  format: object({ ...labels('type syntax'), definition: PROSE }),
};

const TOOL: Fields = {
  ...DEFINITION,
  // OpenAI's servers run any other tool themselves, or only their models know its form.
  type: { strings: 'label', only: ['function', 'custom', 'local_shell', 'namespace'] },
  tools: object({ ...DEFINITION, type: { strings: 'label', only: ['function', 'custom'] } }),
};

const COUNTED: Fields = {
  ...labels('model parallel_tool_calls previous_response_id'),
  input: object(ITEM, 'prose'),
  instructions: PROSE,
  tools: object(TOOL),
  tool_choice: object({ ...labels('type name mode'), tools: object(labels('type name')) }, 'label'),
  text: object({
    format: object({ ...labels('type name strict'), description: PROSE, schema: 'open' }),
    verbosity: LABEL,
  }),
  reasoning: object(labels('effort summary generate_summary context')),
  truncation: { strings: 'label', only: ['auto', 'disabled'] },
};

export const RESPONSES_FIELDS = {
  responses: {
    ...COUNTED,
    ...labels(
      'stream store max_output_tokens max_tool_calls temperature top_p user safety_identifier prompt_cache_key ' +
        'prompt_cache_retention',
    ),
    prompt_cache_options: CACHE_MARK,
    stream_options: object(labels('include_obfuscation reasoning_summary_delivery')),
    metadata: { others: LABEL },
    // Sent by Codex for OpenAI's own records.
    client_metadata: { others: LABEL },
    include: {
      strings: 'label',
      only: [
        'reasoning.encrypted_content',
        'message.input_image.image_url',
        'computer_call_output.output.image_url',
        'file_search_call.results',
        'web_search_call.results',
        'web_search_call.action.sources',
        'code_interpreter_call.outputs',
      ],
    },
    service_tier: { strings: 'label', only: ['auto', 'default', 'flex'] },
    background: { only: [false] },
  },
  input_tokens: COUNTED,
} as const satisfies Readonly<Record<string, Fields>>;

const OWN_STATE =
  "it refers to an object in the host's account; send the content inline, or continue an answer with " +
  'previous_response_id';

/** Fields known to be dangerous, in lower case; their errors explain more than those of unknown fields. */
export const RESPONSES_HAZARDS: Hazards = new Map([
  ...hazards(
    'provider_tool_refused',
    'a tool that the model server runs would give the sandbox a way to the network; run the tool in the sandbox ' +
      'and offer it as type "function". Codex offers none with web_search = "disabled" in its config.toml',
    'tools.type tools.tools.type server_url server_label connector_id vector_store_ids external_web_access ' +
      'search_context_size user_location filters max_num_results container display_width display_height environment',
  ),
  ...hazards(
    'remote_media_refused',
    'the model server would fetch it from the host network; read it in the sandbox and send its text',
    'file_url',
  ),
  ...hazards('file_reference_refused', OWN_STATE, 'file_id conversation prompt'),
  ...hazards('field_refused', 'model servers read no documents; send their text as input_text', 'file_data filename'),
  ...hazards(
    'field_refused',
    'an answer lives as long as its request; keep the connection open, or stream',
    'background background_options',
  ),
  ...hazards('field_refused', 'most model servers have no probabilities', 'include top_logprobs'),
  ...hazards(
    'field_refused',
    "it puts the request before other sandboxes', or changes the server for them",
    'service_tier',
  ),
]);
