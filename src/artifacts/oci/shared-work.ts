/** Shares equal work that several callers request at once. It is canceled when all of them have canceled. */
export class SharedWork<T> {
  readonly #running = new Map<string, Shared<T>>();

  async run(key: string, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    let shared = this.#running.get(key);
    if (shared === undefined || shared.aborter.signal.aborted) {
      const aborter = new AbortController();
      const started: Shared<T> = { aborter, waiting: 0, result: work(aborter.signal) };
      shared = started;
      this.#running.set(key, started);
      const forget = (): void => {
        if (this.#running.get(key) === started) this.#running.delete(key);
      };
      started.result.then(forget, forget);
    }
    return await join(shared, signal);
  }
}

interface Shared<T> {
  readonly aborter: AbortController;
  readonly result: Promise<T>;
  waiting: number;
}

async function join<T>(shared: Shared<T>, signal: AbortSignal): Promise<T> {
  shared.waiting += 1;
  const { promise, reject } = Promise.withResolvers<never>();
  const leave = (): void => {
    shared.waiting -= 1;
    if (shared.waiting === 0) shared.aborter.abort(signal.reason);
    // The last caller waits for the work's own end, so that nothing is left behind when it returns.
    else reject(signal.reason);
  };
  signal.addEventListener('abort', leave, { once: true });
  try {
    return await Promise.race([shared.result, promise]);
  } finally {
    signal.removeEventListener('abort', leave);
    if (!signal.aborted) shared.waiting -= 1;
  }
}
