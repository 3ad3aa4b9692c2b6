/**
 * Masks the host's key in an answer that passes, since a server may echo a request even in the middle of a stream.
 * Stars of the same length replace it. Pure.
 */

/** A shorter key could be in a text by chance, and is no secret. */
const KEY_CHARACTERS_MIN = 8;
const STAR = 0x2a;
const NOTHING = Buffer.alloc(0);

export class KeyMask {
  /** The key itself, and the forms in which JSON may escape it. */
  readonly #forms: readonly Buffer[];
  readonly #lengthMax: number;
  #held = NOTHING;

  constructor(apiKey: string | undefined) {
    const key = apiKey ?? '';
    const forms = new Set([key, JSON.stringify(key).slice(1, -1), key.replaceAll('/', '\\/')]);
    this.#forms = key.length < KEY_CHARACTERS_MIN ? [] : [...forms].map((form) => Buffer.from(form));
    this.#lengthMax = Math.max(0, ...this.#forms.map(({ length }) => length));
  }

  /** Returns the next bytes without those that may begin a key. The input is not modified. */
  push(bytes: Buffer): Buffer {
    if (this.#forms.length === 0) return bytes;
    let data = this.#held.length === 0 ? bytes : Buffer.concat([this.#held, bytes]);
    for (const form of this.#forms) {
      for (let at = data.indexOf(form); at >= 0; at = data.indexOf(form, at + form.length)) {
        // The input's buffer belongs to the caller.
        if (data === bytes) data = Buffer.from(bytes);
        data.fill(STAR, at, at + form.length);
      }
    }
    const end = this.#endOfSafe(data);
    this.#held = end === data.length ? NOTHING : Buffer.from(data.subarray(end));
    return data.subarray(0, end);
  }

  rest(): Buffer {
    const rest = this.#held;
    this.#held = NOTHING;
    return rest;
  }

  #endOfSafe(data: Buffer): number {
    for (let at = Math.max(0, data.length - this.#lengthMax + 1); at < data.length; at += 1) {
      const end = data.subarray(at);
      if (this.#forms.some((form) => form.length > end.length && form.subarray(0, end.length).equals(end))) {
        return at;
      }
    }
    return data.length;
  }
}
