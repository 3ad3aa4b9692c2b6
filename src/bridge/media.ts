/**
 * Remote media (G28): model servers fetch the URLs in `image_url` and similar fields themselves, from the
 * host's network. Through them a guest without a network card could reach the cloud's metadata service.
 * So media must come as `data:`.
 *
 * The check does not rely on the `type` of a part: any string that is not plain text and refers to another
 * resource is refused, at any depth and whatever the spelling of its key.
 */
import { isJsonObject, type JsonObject } from './json-body.ts';
import { accepted, type Checked, refused } from './refusal.ts';

/** Keys of prose for the model; a URL in it is text, and not fetched. */
const TEXT_KEYS = new Set([
  'text',
  'content',
  'prompt',
  'input',
  'suffix',
  'refusal',
  'arguments',
  'output',
  'reasoning',
  'reasoning_content',
  'reasoning_details',
  'thinking',
  'description',
]);

/** Keys of labels, which are not fetched. */
const LABEL_KEYS = new Set([
  'name',
  'role',
  'type',
  'id',
  'tool_call_id',
  'call_id',
  'filename',
  'format',
  'detail',
  'signature',
]);

/** Keys whose values must be `data:` URLs; one without a scheme could be a path on the host. */
const MEDIA_KEYS = new Set([
  'image_url',
  'audio_url',
  'video_url',
  'file_url',
  'media_url',
  'document_url',
  'url',
  'uri',
  'image',
  'images',
  'audio_path',
  'video',
  'videos',
  'file_data',
  'src',
  'path',
  'file_path',
]);

/** Keys that name files in the provider's account, which is the host's. */
const FORBIDDEN_KEYS = new Set(['file_id', 'file_ids']);

/** Keys of the upstream's media cache (vLLM), which all sandboxes share. */
const CACHE_KEYS = new Set(['uuid', 'uuids', 'multi_modal_uuids']);

/** Members with schemas, labels or settings: URLs in them are never fetched. */
const SKIPPED_MEMBERS = new Set([
  'model',
  'tools',
  'functions',
  'tool_choice',
  'function_call',
  'response_format',
  'stop',
  'metadata',
  'user',
  'safety_identifier',
  'prompt_cache_key',
  'grammar',
  'chat_template',
  'guided_json',
  'guided_regex',
  'guided_grammar',
  'guided_choice',
  'structured_outputs',
  'json_schema',
  'logit_bias',
  'stream_options',
]);

/** Output of earlier turns that clients send back unchanged. */
const SKIPPED_KEYS = new Set(['annotations']);

const REFERENCE = /^\s*(?:[a-z][a-z0-9+.-]*:\/\/|(?:file|https?|ftp|blob|s3|gs):)/i;
const DATA_URL = /^data:/i;
const CHARACTERS_PER_TOKEN = 4;

/** Refuses references to other resources. @returns the estimated number of tokens in `body` */
export function inspectMedia(body: JsonObject): Checked<number> {
  let characters = 0;
  let tokens = 0;
  const open: { value: unknown; key: string }[] = [];
  for (const [name, value] of Object.entries(body)) {
    const key = foldKey(name);
    if (!SKIPPED_MEMBERS.has(key)) open.push({ value, key });
  }
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { value, key } = next;
    if (FORBIDDEN_KEYS.has(key)) return fileRefused(key);
    if (CACHE_KEYS.has(key)) return cacheRefused(key);
    if (typeof value === 'string') {
      if (!isLocal(key, value)) return mediaRefused(key);
      if (TEXT_KEYS.has(key)) characters += value.length;
    } else if (Array.isArray(value)) {
      for (const child of value) {
        if (typeof child === 'number') tokens += 1;
        else if (child !== null) open.push({ value: child, key });
      }
    } else if (isJsonObject(value)) {
      for (const [name, child] of Object.entries(value)) {
        const childKey = foldKey(name);
        if (!SKIPPED_KEYS.has(childKey)) open.push({ value: child, key: childKey });
      }
    }
  }
  return accepted(tokens + Math.ceil(characters / CHARACTERS_PER_TOKEN));
}

/**
 * Upstreams in Go match keys case-insensitively, by Unicode folding (`ſ` is s, `K` is k); lower case alone
 * would miss those.
 */
export function foldKey(key: string): string {
  return key.toUpperCase().toLowerCase();
}

function isLocal(key: string, value: string): boolean {
  if (TEXT_KEYS.has(key) || LABEL_KEYS.has(key)) return true;
  if (MEDIA_KEYS.has(key)) return DATA_URL.test(value);
  return !REFERENCE.test(value);
}

function mediaRefused(key: string): Checked<never> {
  const message =
    `Remote media is refused: "${shorten(key)}" must be a data: URL, because the model server would fetch ` +
    'it from the host network. Read the file in the sandbox and send it as data:<type>;base64,…';
  return refused(400, 'remote_media_refused', message, { param: shorten(key) });
}

function fileRefused(key: string): Checked<never> {
  const message = `"${key}" is refused: it refers to a file in the host's account. Send the content inline.`;
  return refused(400, 'file_reference_refused', message, { param: key });
}

function cacheRefused(key: string): Checked<never> {
  const message = `"${key}" is refused: it names an entry of a cache that all sandboxes share. Remove it.`;
  return refused(400, 'field_refused', message, { param: key });
}

const KEY_CHARACTERS_SHOWN_MAX = 40;
const shorten = (key: string): string => key.slice(0, KEY_CHARACTERS_SHOWN_MAX);
