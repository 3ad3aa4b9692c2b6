import type { Hold } from '../../../base/fairness/fair-share.ts';
import type { ContentMode } from '../../../base/text/content-mode.ts';
import type { CheckedBody } from '../body/check-body.ts';
import { AnswerText } from '../content/answer-text.ts';
import { CONTENT_LIMITS, type Content, type ContentKeeping, type RequestContent } from '../content/content.ts';
import type { ExchangeContext } from '../exchange-context.ts';
import { AnswerNotes } from './answer-notes.ts';
import type { RefusedRequest } from './request-record.ts';

export class RequestHead {
  readonly dialect: string;
  readonly startedAtMs: number;
  readonly notes: AnswerNotes;
  readonly #keeping: ContentKeeping;
  readonly #sandboxId: string;
  #operation: string | undefined;
  #model: string | null = null;
  #stream = false;
  #content: RequestContent | null = null;
  #hold: Hold | undefined;

  constructor(dialect: string, { clock, content, sandboxId }: ExchangeContext) {
    this.dialect = dialect;
    this.startedAtMs = clock.now();
    this.#keeping = content;
    this.#sandboxId = sandboxId;
    const { mode, memory } = content;
    this.notes = new AnswerNotes(mode === 'off' ? undefined : new AnswerText(mode, memory, sandboxId));
  }

  /** Which content the body check extracts. `off` for token counts, which are frequent. */
  get mode(): ContentMode {
    return this.#operation === undefined ? 'off' : this.#keeping.mode;
  }

  get operation(): string | undefined {
    return this.#operation;
  }

  begin(operation: string): void {
    this.#operation = operation;
  }

  /** Keeps the content. @returns the rest of what was checked */
  take({ content, ...checked }: CheckedBody): CheckedBody {
    const { model = null, stream } = checked.inspection;
    this.#model = model;
    this.#stream = stream;
    this.#hold?.release();
    this.#content = content ?? null;
    if (content?.body === undefined) return checked;
    // A character of a string takes at most two bytes.
    const bytes = 2 * Math.min(content.bytes, CONTENT_LIMITS.requestBytesMax);
    this.#hold = this.#keeping.memory.take(this.#sandboxId, bytes);
    if (this.#hold === undefined) this.#content = null;
    return checked;
  }

  asked(): Pick<RefusedRequest, 'sandboxId' | 'dialect' | 'model' | 'stream'> {
    const { dialect } = this;
    return { sandboxId: this.#sandboxId, dialect, model: this.#model, stream: this.#stream };
  }

  /** `null` if no content is kept. @param isWhole true if the answer is whole */
  content(isWhole: boolean): Content | null {
    const { mode } = this;
    if (mode === 'off') return null;
    return { mode, request: this.#content, answer: this.notes.content(isWhole) };
  }

  release(): void {
    this.#hold?.release();
    this.#content = null;
    this.notes.release();
  }
}
