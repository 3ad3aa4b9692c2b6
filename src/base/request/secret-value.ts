import { randomBytes } from 'node:crypto';

/**
 * A text that must never be written: JSON, templates, logs and `inspect` show only that it exists. Call `reveal` to use
 * it.
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
/** If the long prefix leaves fewer random characters, the short one is used: 16 characters have 78 bits. */
const RANDOM_CHARACTERS_MIN = 22;

/** An unguessable text as long as the secret, without characters special to headers, URLs and JSON. */
export function newPlaceholder(length: number): string {
  const hasRoom = length >= PREFIX.length + RANDOM_CHARACTERS_MIN;
  const prefix = hasRoom ? PREFIX : SHORT_PREFIX;
  return `${prefix}${randomBytes(length).toString('base64url')}`.slice(0, length);
}
