import { randomBytes } from 'node:crypto';

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

const PREFIX = 'NV_SECRET_';
const SHORT_PREFIX = 'NV_';
/** With fewer random characters behind the long prefix, the short one is taken: 16 characters have 78 bits. */
const RANDOM_CHARACTERS_MIN = 22;

/** As long as the secret, of characters that mean nothing in headers, URLs and JSON; nobody can guess it. */
export function newPlaceholder(length: number): string {
  const hasRoom = length >= PREFIX.length + RANDOM_CHARACTERS_MIN;
  const prefix = hasRoom ? PREFIX : SHORT_PREFIX;
  return `${prefix}${randomBytes(length).toString('base64url')}`.slice(0, length);
}
