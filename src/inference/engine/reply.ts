/**
 * Parses a model's output, piece by piece, into the events for a client: text up to a stop string, or the name and
 * arguments of a tool call. Pure; pieces may be cut anywhere.
 */
import { CALL_BETWEEN, CALL_CLOSE, CALL_OPEN } from './grammar.ts';

export type ReplyEvent =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'call'; readonly name: string }
  | { readonly kind: 'arguments'; readonly text: string };

export interface ReplyOptions {
  readonly stops: readonly string[];
  /** True if a reply that begins with `CALL_OPEN` is a call. */
  readonly calls: boolean;
  /** Trim white space at both ends of a text, which is layout in a base model's transcript. */
  readonly trim: boolean;
}

/**
 * `deciding`: too few characters to distinguish a call from a text · `text` · `name`, `arguments`: inside a call ·
 * `done`: a stop string or the end of the call was reached, and the rest is dropped.
 */
type State = 'deciding' | 'text' | 'name' | 'arguments' | 'done';

export class ReplyReader {
  readonly #options: ReplyOptions;
  #state: State;
  #held = '';
  #isCall = false;
  #hasBegun = false;

  constructor(options: ReplyOptions) {
    this.#options = options;
    this.#state = options.calls ? 'deciding' : 'text';
  }

  /** True if a stop string or the end of a call was reached, so that the model can stop. */
  get isDone(): boolean {
    return this.#state === 'done';
  }

  get isCall(): boolean {
    return this.#isCall;
  }

  push(text: string): ReplyEvent[] {
    this.#held += text;
    const events: ReplyEvent[] = [];
    while (this.#step(events));
    return events;
  }

  end(): ReplyEvent[] {
    const held = this.#held;
    this.#held = '';
    if (held === '' || this.#state === 'done') return [];
    if (this.#state === 'arguments') {
      // Arguments have no line break, so a truncated end of the call is not part of them.
      const text = this.#trimStart(held.replace(/\}\n.*$/s, ''));
      return text === '' ? [] : [{ kind: 'arguments', text }];
    }
    if (this.#state === 'name') return [];
    const text = this.#options.trim ? this.#trimStart(held).trimEnd() : held;
    return text === '' ? [] : [{ kind: 'text', text }];
  }

  /** Makes one transition; returns false if more characters are needed. */
  #step(events: ReplyEvent[]): boolean {
    switch (this.#state) {
      case 'deciding':
        this.#held = this.#held.trimStart();
        if (this.#held.startsWith(CALL_OPEN)) {
          this.#held = this.#held.slice(CALL_OPEN.length);
          this.#state = 'name';
          return true;
        }
        if (CALL_OPEN.startsWith(this.#held)) return false;
        this.#state = 'text';
        return true;
      case 'name': {
        const end = this.#held.indexOf(CALL_BETWEEN);
        if (end < 0) return false;
        this.#isCall = true;
        events.push({ kind: 'call', name: this.#held.slice(0, end) });
        this.#held = this.#held.slice(end + CALL_BETWEEN.length);
        this.#hasBegun = false;
        this.#state = 'arguments';
        return true;
      }
      case 'arguments':
        return this.#take(events, 'arguments', [CALL_CLOSE]);
      case 'text':
        return this.#take(events, 'text', this.#options.stops);
      case 'done':
        this.#held = '';
        return false;
    }
  }

  /** Emits everything that can't be the beginning of a terminator. */
  #take(events: ReplyEvent[], kind: 'text' | 'arguments', terminators: readonly string[]): boolean {
    let end = -1;
    for (const terminator of terminators) {
      const at = this.#held.indexOf(terminator);
      if (at >= 0 && (end < 0 || at < end)) end = at;
    }
    const found = end >= 0;
    let safe = found ? end : this.#held.length - heldBack(this.#held, terminators);
    // White space is emitted only with the text after it.
    if (kind === 'text' && this.#options.trim) safe = this.#held.slice(0, safe).trimEnd().length;
    const part = this.#held.slice(0, safe);
    const text = kind === 'arguments' || this.#options.trim ? this.#trimStart(part) : part;
    this.#held = this.#held.slice(safe);
    if (text !== '') events.push({ kind, text });
    if (found) this.#state = 'done';
    return found;
  }

  #trimStart(text: string): string {
    if (this.#hasBegun) return text;
    const trimmed = text.trimStart();
    this.#hasBegun = trimmed !== '';
    return trimmed;
  }
}

function heldBack(text: string, terminators: readonly string[]): number {
  let longest = 0;
  for (const terminator of terminators) {
    for (let length = Math.min(terminator.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(terminator.slice(0, length))) {
        longest = length;
        break;
      }
    }
  }
  return longest;
}
