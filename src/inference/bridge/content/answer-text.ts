/**
 * Gathers the texts of an answer as they pass. Parts of a stream are joined before they are searched for secrets, so it
 * does not matter where a part ends. Pure but for the memory that it reserves.
 */
import { createHash, type Hash } from 'node:crypto';
import type { FairShare, Hold } from '../../../base/fairness/fair-share.ts';
import type { ContentMode } from '../../../base/text/content-mode.ts';
import { KIB } from '../../../base/units.ts';
import { cleanText } from './clean-text.ts';
import { type AnswerChoice, type AnswerContent, CONTENT_LIMITS } from './content.ts';
import { SECRET_CHARACTERS_MAX } from './redact.ts';

const HOLD_STEP = 32 * KIB;
/** Characters hashed at a time: a call for each part of a stream would cost more than the hash itself. */
const HASHED_CHARACTERS = 2 * KIB;
/** Includes a margin: a secret may begin at the limit, and its end is needed to recognize it. */
const CHARACTERS_MAX = CONTENT_LIMITS.answerBytesMax + SECRET_CHARACTERS_MAX;

const JOINED_CHARACTERS = 2 * KIB;

/** Without copies, V8 would keep each part of a text at 32 bytes or more: many times the reserved memory. */
function joined(text: string, part: string): string {
  const all = text + part;
  const isDue = Math.floor(all.length / JOINED_CHARACTERS) !== Math.floor(text.length / JOINED_CHARACTERS);
  return isDue ? Buffer.from(all, 'utf16le').toString('utf16le') : all;
}

interface Gathered {
  text: string;
  reasoning: string;
  readonly calls: Map<string, { name: string; arguments: string }>;
}

export class AnswerText {
  readonly #mode: ContentMode;
  readonly #memory: Pick<FairShare, 'take'>;
  readonly #sandboxId: string;
  readonly #choices = new Map<number, Gathered>();
  readonly #hash: Hash | undefined;
  #unhashed = '';
  #hasText = false;
  #characters = 0;
  #kept = 0;
  #isCut = false;
  #hold: Hold | undefined;

  constructor(mode: ContentMode, memory: Pick<FairShare, 'take'>, sandboxId: string) {
    this.#mode = mode;
    this.#memory = memory;
    this.#sandboxId = sandboxId;
    this.#hash = mode === 'hash' || mode === 'full' ? createHash('sha256') : undefined;
  }

  text(choice: number, part: string): void {
    if (choice === 0) this.#addToHash(part);
    const gathered = this.#take(choice, part);
    if (gathered !== undefined) gathered.text = joined(gathered.text, part);
  }

  reasoning(choice: number, part: string): void {
    const gathered = this.#take(choice, part);
    if (gathered !== undefined) gathered.reasoning = joined(gathered.reasoning, part);
  }

  /** @param place of the call in its answer */
  call(choice: number, place: string, name: string, part: string): void {
    const gathered = this.#take(choice, name + part);
    if (gathered === undefined) return;
    const call = gathered.calls.get(place);
    if (call !== undefined) {
      call.name ||= name;
      call.arguments = joined(call.arguments, part);
    } else if (gathered.calls.size < CONTENT_LIMITS.callsMax) {
      gathered.calls.set(place, { name, arguments: part });
    } else this.#isCut = true;
  }

  skip(characters: number): void {
    this.#characters += characters;
    this.#isCut = true;
  }

  /**
   * Call once, after the last part. Returns `null` if there was no part.
   * @param isWhole false if the answer broke off
   */
  content(isWhole: boolean): AnswerContent | null {
    if (this.#characters === 0) return null;
    const hash = this.#hash;
    if (this.#unhashed !== '') hash?.update(this.#unhashed);
    this.#unhashed = '';
    const sha256 = this.#hasText && hash !== undefined ? { sha256: hash.digest('hex') } : {};
    const characters = this.#characters;
    if (!isWhole) this.#isCut = true;
    const choices = this.#mode === 'hash' ? {} : { choices: this.#cleanChoices() };
    return { ...sha256, characters, ...choices, ...(this.#isCut ? { cut: true } : {}) };
  }

  release(): void {
    this.#hold?.release();
    this.#choices.clear();
  }

  #addToHash(part: string): void {
    if (this.#hash === undefined || part === '') return;
    this.#hasText = true;
    this.#unhashed += part;
    if (this.#unhashed.length < HASHED_CHARACTERS) return;
    // Keep half a surrogate pair until its other half arrives.
    const isHalf = (this.#unhashed.charCodeAt(this.#unhashed.length - 1) & 0xfc00) === 0xd800;
    const end = this.#unhashed.length - (isHalf ? 1 : 0);
    this.#hash.update(this.#unhashed.slice(0, end));
    this.#unhashed = this.#unhashed.slice(end);
  }

  /** The choice that the part belongs to, if there is room for the part. */
  #take(choice: number, part: string): Gathered | undefined {
    this.#characters += part.length;
    if (this.#mode === 'hash') return undefined;
    let gathered = this.#choices.get(choice);
    const isNew = gathered === undefined;
    const isFull = this.#kept >= CHARACTERS_MAX || (isNew && this.#choices.size >= CONTENT_LIMITS.choicesMax);
    if (isFull || !this.#hasMemory(part.length)) {
      this.#isCut = true;
      return undefined;
    }
    this.#kept += part.length;
    gathered ??= { text: '', reasoning: '', calls: new Map() };
    if (isNew) this.#choices.set(choice, gathered);
    return gathered;
  }

  /** A character of a string takes at most two bytes. */
  #hasMemory(characters: number): boolean {
    const bytes = 2 * (this.#kept + characters);
    if (bytes <= (this.#hold?.amount ?? 0)) return true;
    const wanted = Math.ceil(bytes / HOLD_STEP) * HOLD_STEP;
    if (this.#hold !== undefined) return this.#hold.resize(wanted);
    this.#hold = this.#memory.take(this.#sandboxId, wanted);
    return this.#hold !== undefined;
  }

  #cleanChoices(): readonly AnswerChoice[] {
    let left: number = CONTENT_LIMITS.answerBytesMax;
    const isWhole = !this.#isCut;
    const clean = (text: string): string => {
      const made = cleanText(text, this.#mode, left, isWhole);
      left = Math.max(0, left - Buffer.byteLength(made.text));
      if (made.isCut) this.#isCut = true;
      return made.text;
    };
    return [...this.#choices]
      .sort(([a], [b]) => a - b)
      .map(([, { text, reasoning, calls }]) => ({
        text: clean(text),
        ...(reasoning === '' ? {} : { reasoning: clean(reasoning) }),
        ...(calls.size === 0
          ? {}
          : {
              toolCalls: [...calls.values()].map((call) => ({
                name: clean(call.name),
                arguments: clean(call.arguments),
              })),
            }),
      }));
  }
}
