/**
 * Extracts the request content that a log keeps. Runs where the body is checked, so that a body is parsed only once,
 * and a large one in a thread. The work is bounded by what is kept, except for hashes and media, which read the body
 * once. Pure.
 */
import { createHash } from 'node:crypto';
import type { ContentMode } from '../../../base/text/content-mode.ts';
import type { JsonObject } from '../json-body.ts';
import { sorted } from '../tape/normal-form.ts';
import { cleanText } from './clean-text.ts';
import { CONTENT_LIMITS, type RequestContent } from './content.ts';

/** Members that hold the conversation in any dialect. They grow, and their end is new. */
const CONVERSATION = ['messages', 'input', 'prompt'];
/** Assumed size of a number or a bracket. */
const VALUE_BYTES = 8;
const KEY_BYTES_MAX = 256;

/** @param bytes size of the body */
export function requestContent(body: JsonObject, bytes: number, mode: ContentMode): RequestContent | undefined {
  if (mode === 'off') return undefined;
  const sha256 = mode === 'redacted' ? {} : { sha256: hashOf(body) };
  if (mode === 'hash') return { bytes, ...sha256 };
  const isConversation = (name: string): boolean => CONVERSATION.includes(name);
  const settings = Object.entries(body).filter(([name]) => !isConversation(name));
  const others = new Copier(mode, CONTENT_LIMITS.settingsBytesMax);
  const kept: [string, unknown][] = Object.entries(others.copy(Object.fromEntries(settings)) as JsonObject);
  const newest = new Copier(mode, CONTENT_LIMITS.requestBytesMax - others.spent);
  let omitted = 0;
  for (const name of CONVERSATION.filter((one) => Object.hasOwn(body, one))) {
    const value = body[name];
    const list = Array.isArray(value) ? newest.copyNewest(value) : newest.copy(value);
    if (Array.isArray(value) && Array.isArray(list)) omitted += value.length - list.length;
    kept.push([name, list]);
  }
  return {
    bytes,
    ...sha256,
    body: Object.fromEntries(kept),
    ...(omitted === 0 ? {} : { omitted }),
    ...(others.isCut || newest.isCut ? { cut: true } : {}),
  };
}

const hashOf = (body: JsonObject): string =>
  createHash('sha256')
    .update(JSON.stringify(sorted(body)))
    .digest('hex');

class Copier {
  readonly #mode: ContentMode;
  readonly #bytesMax: number;
  #left: number;
  isCut = false;

  constructor(mode: ContentMode, bytesMax: number) {
    this.#mode = mode;
    this.#bytesMax = bytesMax;
    this.#left = bytesMax;
  }

  get spent(): number {
    return this.#bytesMax - Math.max(0, this.#left);
  }

  copy(value: unknown): unknown {
    if (typeof value === 'string') return this.#text(value, this.#left);
    this.#left -= VALUE_BYTES;
    if (Array.isArray(value)) {
      const copies: unknown[] = [];
      for (const one of value) {
        if (!this.#hasRoom()) break;
        copies.push(this.copy(one));
      }
      return copies;
    }
    if (typeof value !== 'object' || value === null) return value;
    const entries: [string, unknown][] = [];
    for (const [name, child] of Object.entries(value)) {
      if (!this.#hasRoom()) break;
      entries.push([this.#text(name, KEY_BYTES_MAX), this.copy(child)]);
    }
    return Object.fromEntries(entries);
  }

  copyNewest(values: readonly unknown[]): unknown[] {
    const copies: unknown[] = [];
    for (const value of values.toReversed()) {
      if (!this.#hasRoom()) break;
      copies.push(this.copy(value));
    }
    return copies.reverse();
  }

  #hasRoom(): boolean {
    if (this.#left > 0) return true;
    this.isCut = true;
    return false;
  }

  #text(text: string, bytesMax: number): string {
    const clean = cleanText(text, this.#mode, Math.max(0, Math.min(bytesMax, this.#left)));
    this.#left -= Buffer.byteLength(clean.text) + VALUE_BYTES;
    if (clean.isCut) this.isCut = true;
    return clean.text;
  }
}
