/**
 * Masks the members of an answer that reveal what the upstream had in its cache, and so what other sandboxes have
 * asked. Works on the bytes as they pass: numbers become 0, and objects, lists and strings become empty. Masked
 * characters are not padded, since the length would reveal the number of digits. Text of a model is inside other
 * strings and is never changed. Pure.
 */

/** Counts of cached tokens and times of the prompt, under the names that servers use. */
const HINT_KEYS = new Set([
  // OpenAI, vLLM, SGLang, our engine
  'cached_tokens',
  'num_cached_tokens',
  'cache_write_tokens',
  'cached_tokens_details',
  'metrics',
  'time_to_first_token_ms',
  'queue_time_ms',
  // llama.cpp
  'timings',
  'prompt_progress',
  'tokens_cached',
  'tokens_evaluated',
  // DeepSeek
  'prompt_cache_hit_tokens',
  'prompt_cache_miss_tokens',
  // Anthropic, OpenRouter
  'cache_read_input_tokens',
  'cache_creation_input_tokens',
  'cache_discount',
  // Cached tokens cost less, so the cost reveals them.
  'cost',
  'cost_details',
  // xAI, Gemini
  'cached_prompt_text_tokens',
  'cached_content_token_count',
  // Groq, Ollama
  'prompt_time',
  'queue_time',
  'total_time',
  'prompt_eval_duration',
  'load_duration',
  'total_duration',
]);
/** A longer string is none of the keys, even if each of their characters is escaped. */
const KEY_BYTES_MAX = 256;

/** Marks a byte that is dropped. */
const NOTHING = -1;
const SPACE = 0x20;
const LF = 0x0a;
const CR = 0x0d;
const TAB = 0x09;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
const ZERO = 0x30;

type State =
  | 'outside'
  | 'string'
  /** After a string that is one of the keys: a colon may follow. */
  | 'key'
  | 'value'
  | 'number'
  | 'text'
  | 'nested'
  | 'nested-string';

export class CacheHintMask {
  #state: State = 'outside';
  #escaped = false;
  #key: number[] = [];
  #depth = 0;

  reset(): void {
    this.#state = 'outside';
    this.#escaped = false;
  }

  /** Returns the next bytes of the document; the same buffer if nothing is masked. The input is not modified. */
  mask(bytes: Buffer): Buffer {
    let out: Buffer | undefined;
    let length = 0;
    for (let i = 0; i < bytes.length; i += 1) {
      const byte = bytes[i] ?? 0;
      const masked = this.#next(byte);
      if (masked !== byte) out ??= Buffer.from(bytes);
      if (masked === NOTHING) continue;
      if (out !== undefined) out[length] = masked;
      length += 1;
    }
    return out?.subarray(0, length) ?? bytes;
  }

  #next(byte: number): number {
    switch (this.#state) {
      case 'outside':
        if (byte === QUOTE) this.#beginString('string');
        return byte;
      case 'string':
        this.#inString(byte);
        return byte;
      case 'key':
        if (byte === COLON) this.#state = 'value';
        else if (!isSpace(byte)) this.#restart(byte);
        return byte;
      case 'value':
        return this.#beginValue(byte);
      case 'number':
        if (isNumeric(byte)) return NOTHING;
        this.#restart(byte);
        return byte;
      case 'text':
        if (!this.#endsString(byte)) return NOTHING;
        this.#state = 'outside';
        return byte;
      case 'nested-string':
        if (this.#endsString(byte)) this.#state = 'nested';
        return NOTHING;
      case 'nested':
        return this.#inNested(byte);
    }
  }

  #restart(byte: number): void {
    this.#state = 'outside';
    if (byte === QUOTE) this.#beginString('string');
  }

  #beginString(state: 'string' | 'text' | 'nested-string'): void {
    this.#state = state;
    this.#escaped = false;
    this.#key = [];
  }

  #inString(byte: number): void {
    // JSON strings contain no line ends, so this was none, e.g. a comment in a stream.
    if (byte === LF || byte === CR) this.#state = 'outside';
    else if (this.#endsString(byte)) this.#state = this.#isHint() ? 'key' : 'outside';
    else if (this.#key.length <= KEY_BYTES_MAX) this.#key.push(byte);
  }

  #endsString(byte: number): boolean {
    const ends = byte === QUOTE && !this.#escaped;
    this.#escaped = byte === BACKSLASH && !this.#escaped;
    return ends;
  }

  #isHint(): boolean {
    if (this.#key.length > KEY_BYTES_MAX) return false;
    const raw = Buffer.from(this.#key).toString('utf8');
    if (!raw.includes('\\')) return HINT_KEYS.has(raw);
    try {
      return HINT_KEYS.has(JSON.parse(`"${raw}"`));
    } catch (error) {
      if (error instanceof SyntaxError) return false;
      throw error;
    }
  }

  #beginValue(byte: number): number {
    if (isSpace(byte)) return byte;
    if (isNumeric(byte)) {
      this.#state = 'number';
      return ZERO;
    }
    if (byte === QUOTE) this.#beginString('text');
    else if (isOpening(byte)) {
      this.#state = 'nested';
      this.#depth = 1;
    } else this.#state = 'outside';
    return byte;
  }

  #inNested(byte: number): number {
    if (byte === QUOTE) this.#beginString('nested-string');
    else if (isOpening(byte)) this.#depth += 1;
    else if (isClosing(byte)) this.#depth -= 1;
    if (this.#depth > 0) return NOTHING;
    this.#state = 'outside';
    return byte;
  }
}

/** Length of an event in bytes without its trailing line ends, which are not part of its data. */
export function eventLength(event: Buffer): number {
  let length = event.length;
  while (length > 0 && (event[length - 1] === LF || event[length - 1] === CR)) length -= 1;
  return length;
}

const isSpace = (byte: number): boolean => byte === SPACE || byte === LF || byte === CR || byte === TAB;
const isNumeric = (byte: number): boolean =>
  (byte >= 0x30 && byte <= 0x39) || [0x2b, 0x2d, 0x2e, 0x45, 0x65].includes(byte);
const isOpening = (byte: number): boolean => byte === 0x5b || byte === 0x7b;
const isClosing = (byte: number): boolean => byte === 0x5d || byte === 0x7d;
