/**
 * A text that must never be written down: JSON, templates, logs and `inspect` show that there is one, and not
 * what it is. What needs it asks for it by name.
 */
export class SecretValue {
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  /** The text itself. Never for a message, a file or a guest. */
  reveal(): string {
    return this.#text;
  }

  toJSON(): null {
    return null;
  }

  toString(): string {
    return '[secret]';
  }
}
