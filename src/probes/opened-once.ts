/** What is opened once and beside everything else, so that it may be there late, never, or when nobody wants it any more. */

export interface OpenedOnceParts<T> {
  /** Null: it is not to be opened. */
  readonly open: (() => Promise<T>) | null;
  /** It is there. What this throws goes to `failed`, too. */
  opened(value: T): void;
  failed(error: unknown): void;
}

export class OpenedOnce<T extends Disposable> implements Disposable {
  readonly #parts: OpenedOnceParts<T>;
  #value: T | undefined;
  #opening: Promise<void> | undefined;
  #isStopped = false;

  constructor(parts: OpenedOnceParts<T>) {
    this.#parts = parts;
  }

  /** Undefined: not yet, never, or no more. */
  get value(): T | undefined {
    return this.#value;
  }

  /** Resolves when it is known whether it can be had. Idempotent; never rejects. */
  start(): Promise<void> {
    this.#opening ??= this.#open();
    return this.#opening;
  }

  /** Resolves when what was started is over. */
  async settled(): Promise<void> {
    await this.#opening;
  }

  /** What is not there yet is let go of as it comes. */
  stop(): void {
    this.#isStopped = true;
  }

  /** Idempotent. */
  [Symbol.dispose](): void {
    this.stop();
    this.#value?.[Symbol.dispose]();
    this.#value = undefined;
  }

  async #open(): Promise<void> {
    const { open, opened, failed } = this.#parts;
    if (open === null) return;
    try {
      const value = await open();
      if (this.#isStopped) return value[Symbol.dispose]();
      this.#value = value;
      opened(value);
    } catch (error) {
      failed(error);
    }
  }
}
