const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const [COMMA, COLON, BRACKET, BRACE] = [0x2c, 0x3a, 0x5b, 0x7b];

export interface JsonLimits {
  readonly valuesMax: number;
  /** Names in objects: the slowest to parse, since each may need a shape of its own. */
  readonly namesMax: number;
}

/**
 * Counts the values and names of JSON as it arrives, by its commas, opening brackets and colons. Counting takes
 * milliseconds where `JSON.parse` takes seconds: for objects with a million names.
 */
export class JsonCount {
  readonly #limits: JsonLimits;
  #values = 1;
  #names = 0;
  #isText = false;
  #isEscaped = false;

  constructor(limits: JsonLimits) {
    this.#limits = limits;
  }

  /** Counts the next part. @returns what there is too much of; `null` if nothing */
  add(part: Uint8Array): string | null {
    const { valuesMax, namesMax } = this.#limits;
    let [values, names, isText] = [this.#values, this.#names, this.#isText];
    let at = this.#isEscaped ? 1 : 0;
    for (; at < part.length; at += 1) {
      const byte = part[at];
      if (byte === QUOTE) isText = !isText;
      else if (isText) {
        if (byte === BACKSLASH) at += 1;
      } else if (byte === COLON) {
        names += 1;
        if (names > namesMax) break;
      } else if (byte === COMMA || byte === BRACKET || byte === BRACE) {
        values += 1;
        if (values > valuesMax) break;
      }
    }
    [this.#values, this.#names, this.#isText, this.#isEscaped] = [values, names, isText, at > part.length];
    if (names > namesMax) return `${namesMax} JSON names`;
    return values > valuesMax ? `${valuesMax} JSON values` : null;
  }
}
