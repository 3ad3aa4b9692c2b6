/**
 * The fields of the OpenAI API that a sandbox may send, per route: those of OpenAI's API reference, and the options
 * of vLLM, SGLang, llama.cpp, Ollama, OpenRouter, DeepSeek, Mistral and DashScope that only change sampling, format
 * or reasoning of the request itself. docs/reference/fields.md explains them; a test compares.
 */
import { type Fields, type Hazards, hazards, LABEL, labels, object, type Shape } from '../../fields.ts';

const PROSE: Shape = { strings: 'prose' };
const MEDIA: Shape = { strings: 'media' };
const BASE64: Shape = { strings: 'base64' };

const CACHE_MARK = object(labels('type mode ttl'));

const media = object({ url: MEDIA, ...labels('detail max_dynamic_patch min_dynamic_patch') }, 'media');

const CONTENT_PART: Fields = {
  ...labels('type signature'),
  text: PROSE,
  refusal: PROSE,
  thinking: PROSE,
  reasoning: PROSE,
  image_url: media,
  audio_url: media,
  video_url: media,
  input_audio: object({ data: BASE64, format: LABEL }),
  file: object({ file_data: MEDIA, filename: LABEL }),
  cache_control: CACHE_MARK,
  prompt_cache_breakpoint: CACHE_MARK,
};
const CONTENT = object(CONTENT_PART, 'prose');

const TOOL_CALL: Fields = {
  ...labels('id type index'),
  function: object({ ...labels('id name'), arguments: 'open', parsed_arguments: 'open' }),
  custom: object({ name: LABEL, input: PROSE }),
  extra_content: 'inert',
};

/** A message as a client writes it, or as it sends back an answer. */
const MESSAGE: Fields = {
  ...labels('role name tool_call_id tool_name prefix partial'),
  content: CONTENT,
  refusal: PROSE,
  reasoning: PROSE,
  reasoning_content: PROSE,
  thinking: PROSE,
  reasoning_details: object({ ...labels('type id format index signature'), text: PROSE, summary: PROSE, data: BASE64 }),
  thinking_blocks: object({ ...labels('type signature'), thinking: PROSE, data: BASE64 }),
  tool_calls: object(TOOL_CALL),
  function_call: object({ name: LABEL, arguments: 'open' }),
  audio: object({ ...labels('id expires_at'), data: BASE64, transcript: PROSE }),
  images: object(CONTENT_PART),
  // Citations are never fetched.
  annotations: 'open',
  parsed: 'inert',
  extra_content: 'inert',
  provider_specific_fields: 'inert',
  cache_control: CACHE_MARK,
};

const FUNCTION: Fields = {
  ...labels('name strict defer_loading'),
  description: PROSE,
  parameters: 'open',
  cache_control: CACHE_MARK,
};

const CUSTOM_FORMAT = object({ ...labels('type syntax definition'), grammar: object(labels('definition syntax')) });

const TOOL = object({
  // The model server would run any other tool type itself, with the host's network.
  type: { strings: 'label', only: ['function', 'custom'] },
  function: object(FUNCTION),
  custom: object({ name: LABEL, description: PROSE, format: CUSTOM_FORMAT }),
  defer_loading: LABEL,
  cache_control: CACHE_MARK,
});

const NAMED_TOOL: Fields = { ...labels('type name'), function: object(labels('name')), custom: object(labels('name')) };

const RESPONSE_FORMAT = object({
  ...labels('type pattern grammar'),
  json_schema: object({ ...labels('name strict'), description: PROSE, schema: 'open' }),
  // llama.cpp, text-generation-inference; structural tags of vLLM and SGLang
  schema: 'open',
  value: 'open',
  structures: 'open',
  triggers: LABEL,
  at_least_one: LABEL,
  format: 'open',
});

const GENERATION: Fields = {
  ...labels(
    'model stream n best_of max_tokens temperature top_p seed stop presence_penalty frequency_penalty logprobs',
  ),
  stream_options: object(labels('include_usage include_obfuscation continuous_usage_stats')),
  user: LABEL,
  logit_bias: { others: LABEL },
  metadata: { others: LABEL },
  response_format: RESPONSE_FORMAT,
  // vLLM, SGLang
  ...labels(
    'top_k min_p repetition_penalty length_penalty use_beam_search early_stopping stop_token_ids min_tokens ' +
      'ignore_eos include_stop_str_in_output skip_special_tokens spaces_between_special_tokens add_special_tokens ' +
      'truncate_prompt_tokens truncation_side allowed_token_ids bad_words prompt_logprobs logprob_token_ids ' +
      'return_tokens_as_token_ids return_token_ids stream_interval echo',
  ),
  guided_json: 'open',
  ...labels('guided_regex guided_choice guided_grammar guided_whitespace_pattern'),
  structured_outputs: object({
    ...labels(
      'regex choice grammar json_object whitespace_pattern disable_any_whitespace disable_additional_properties ' +
        'disable_fallback',
    ),
    json: 'open',
    structural_tag: 'open',
  }),
  ...labels('regex ebnf stop_regex no_stop_trim'),
  // llama.cpp
  ...labels(
    'n_predict n_keep n_probs min_keep typical_p tfs_z top_n_sigma repeat_penalty repeat_last_n dynatemp_range ' +
      'dynatemp_exponent mirostat mirostat_tau mirostat_eta xtc_probability xtc_threshold dry_multiplier dry_base ' +
      'dry_allowed_length dry_penalty_last_n dry_sequence_breakers samplers penalize_nl grammar cache_prompt ' +
      'post_sampling_probs',
  ),
  json_schema: 'open',
};

const CHAT: Fields = {
  ...GENERATION,
  messages: object(MESSAGE),
  ...labels(
    'max_completion_tokens top_logprobs modalities parallel_tool_calls reasoning_effort verbosity safety_identifier ' +
      'prompt_cache_key prompt_cache_retention',
  ),
  prompt_cache_options: CACHE_MARK,
  audio: object(labels('format voice')),
  prediction: object({ type: LABEL, content: CONTENT }),
  service_tier: { strings: 'label', only: ['auto', 'default', 'flex'] },
  store: { only: [false] },
  tools: TOOL,
  tool_choice: object({ ...NAMED_TOOL, allowed_tools: object({ mode: LABEL, tools: object(NAMED_TOOL) }) }, 'label'),
  functions: object(FUNCTION),
  function_call: object(labels('name'), 'label'),
  // Reasoning: OpenRouter, Ollama, SGLang; Anthropic, DeepSeek, GLM, Kimi; DashScope; vLLM; llama.cpp, Groq
  reasoning: object(labels('effort enabled exclude max_tokens summary generate_summary')),
  thinking: object(labels('type budget_tokens clear_thinking keep effort'), 'label'),
  ...labels(
    'enable_thinking thinking_budget thinking_token_budget thinking_budget_tokens include_reasoning ' +
      'separate_reasoning stream_reasoning reasoning_format',
  ),
  // Switches of the template; the template itself stays the server's.
  chat_template_kwargs: object(
    labels('enable_thinking thinking thinking_budget reasoning_effort preserve_thinking clear_thinking add_vision_id'),
  ),
  ...labels('add_generation_prompt continue_final_message'),
  documents: object({ ...labels('id title'), text: PROSE, content: PROSE }),
  // Mistral, OpenRouter
  ...labels('safe_prompt random_seed'),
  usage: object(labels('include')),
};

const COMPLETIONS: Fields = { ...GENERATION, prompt: PROSE, suffix: PROSE };

const EMBEDDINGS: Fields = {
  // Texts, lists of token ids, or media for models that embed it.
  input: object({ ...CONTENT_PART, image: MEDIA, video: MEDIA, audio: MEDIA }, 'prose'),
  messages: object(MESSAGE),
  ...labels(
    'model stream dimensions encoding_format user input_type task prompt_name truncate truncation normalize ' +
      'embd_normalize truncate_prompt_tokens truncation_side padding add_special_tokens add_generation_prompt ' +
      'continue_final_message use_activation embed_dtype endianness output_dimension output_dtype text_type ' +
      'late_chunking',
  ),
};

/** The rerank API of Jina and Cohere, as vLLM, SGLang and llama.cpp serve it. */
const RERANK: Fields = {
  query: object({ ...CONTENT_PART, content: CONTENT }, 'prose'),
  documents: object({ ...CONTENT_PART, content: CONTENT }, 'prose'),
  ...labels(
    'model top_n return_documents max_tokens_per_doc max_chunks_per_doc rank_fields user ' +
      'truncate_prompt_tokens truncation_side use_activation activation',
  ),
};

/**
 * Streaming is limited to text events, which the bridge can read. A voice given as an object would name one of the
 * host's account.
 */
const SPEECH: Fields = {
  input: PROSE,
  instructions: PROSE,
  stream_format: { strings: 'label', only: ['audio'] },
  ...labels('model voice response_format speed'),
};

/**
 * OpenAI, vLLM and speaches take a form whose values are texts. Known speakers would be audio files of their own, and
 * are not supported.
 */
const TRANSLATION: Fields = {
  ...labels('file model language to_language temperature seed max_completion_tokens stream'),
  // OpenAI's API calls an answer that separates speakers `diarized_json`.
  response_format: { strings: 'label', only: ['json', 'text', 'srt', 'verbose_json', 'vtt', 'diarized_json'] },
  prompt: PROSE,
  hotwords: PROSE,
  ...labels('stream_include_usage vad_filter'),
};

const TRANSCRIPTION: Fields = {
  ...TRANSLATION,
  'timestamp_granularities[]': { strings: 'label', only: ['word', 'segment'] },
  'include[]': { strings: 'label', only: ['logprobs'] },
  // Any other value is a JSON object.
  chunking_strategy: { strings: 'label', only: ['auto'] },
  ...labels('top_p top_k min_p frequency_penalty presence_penalty repetition_penalty'),
};

export const OPENAI_FIELDS = {
  chat: CHAT,
  completions: COMPLETIONS,
  embeddings: EMBEDDINGS,
  rerank: RERANK,
  speech: SPEECH,
  transcription: TRANSCRIPTION,
  translation: TRANSLATION,
} as const satisfies Readonly<Record<string, Fields>>;

/**
 * Labels that a shared server takes for the identity of a cache or a user. The server gets a value of the sandbox's own
 * instead, so that no sandbox can use another's.
 */
export const BOUND_FIELDS = ['prompt_cache_key', 'safety_identifier', 'user'] as const;

const TOOLS =
  'a tool that the model server runs would give the sandbox a way to the network; run the tool in the ' +
  'sandbox and offer it as type "function"';

/** Fields known to be dangerous, in lower case; their errors explain more than those of unknown fields. */
export const OPENAI_HAZARDS: Hazards = new Map([
  ...hazards(
    'provider_tool_refused',
    TOOLS,
    'tools.type web_search_options web_search search_parameters search_options search_settings enable_search ' +
      'mcp_servers plugins data_sources builtin_tools forced_search return_images return_related_questions ' +
      'include_domains exclude_domains citation_options compound_custom',
  ),
  ...hazards(
    'file_reference_refused',
    "it refers to an object in the host's account; send the content inline",
    'file_id file_ids input_file_id cached_content',
  ),
  ...hazards(
    'field_refused',
    'it names an entry of a cache or session that all sandboxes share',
    'uuid uuids multi_modal_uuids content_hash cache_salt extra_key session_id session_params request_id rid ' +
      'id_slot slot_id ngram_corpus_id custom_labels',
  ),
  ...hazards(
    'field_refused',
    'it names a host, a file or a worker of the model server',
    'kv_transfer_params ec_transfer_params bootstrap_host bootstrap_port bootstrap_room routed_dp_rank ' +
      'data_parallel_rank disagg_prefill_dp_rank api_base base_url api_key callback_url webhook lora lora_path ' +
      'lora_request image_data media_io_kwargs mm_processor_kwargs images_config',
  ),
  ...hazards(
    'field_refused',
    'it names models past the allowlist',
    'models fallbacks provider route draft_model moderation',
  ),
  ...hazards(
    'field_refused',
    'it lets the request run code, templates or tensors in the model server',
    'chat_template logits_processors custom_logit_processor custom_params vllm_xargs prompt_embeds image_embeds ' +
      'audio_embeds video_embeds guided_decoding_backend _backend input_ids',
  ),
  ...hazards(
    'field_refused',
    "it puts the request before other sandboxes', or changes the server for them",
    'priority ttl keep_alive service_tier num_ctx num_gpu options',
  ),
  ...hazards(
    'field_refused',
    'it tells what other sandboxes have asked',
    'return_cached_tokens_details return_progress timings_per_token return_hidden_states return_meta_info',
  ),
  ...hazards('field_refused', "it would keep the conversation in the host's account", 'store'),
]);
