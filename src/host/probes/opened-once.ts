/**
 * A resource that is opened once, in the background: it may be available late, never, or after it is no longer needed.
 */

export interface OpenedOnceParts<T> {
  /** `null` to never open it. */
  readonly open: (() => Promise<T>) | null;
  /** Errors thrown here also go to `failed`. */
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

  /** Undefined until it is open, after a failure, and after `stop`. */
  get value(): T | undefined {
    return this.#value;
  }

  /** Resolves when it is open or has failed. Idempotent; never rejects. */
  start(): Promise<void> {
    this.#opening ??= this.#open();
    return this.#opening;
  }

  async settled(): Promise<void> {
    await this.#opening;
  }

  /** A value that arrives later is disposed of at once. */
  stop(): void {
    this.#isStopped = true;
  }

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
