/**
 * Tick interval for measuring how long this process's event loop is blocked, in CPU time: other programs of a busy
 * machine do not count.
 */
const TICK_MS = 5;

export class LoopTurns implements Disposable {
  readonly #timer: NodeJS.Timeout;
  readonly #turns: number[] = [];
  #lastMs = threadCpuMs();

  constructor() {
    this.#timer = setInterval(() => {
      const nowMs = threadCpuMs();
      this.#turns.push(nowMs - this.#lastMs);
      this.#lastMs = nowMs;
    }, TICK_MS);
  }

  /**
   * In 99 % of the time the loop is blocked no longer than this, milliseconds. Ignores the longest turn: in a measurement
   * of 4 s that one alone may be the hundredth part, and it may be a garbage collection that no guest caused.
   */
  get p99(): number {
    const sorted = [...this.#turns].sort((a, b) => b - a).slice(1);
    let left = 0.01 * sorted.reduce((sum, turn) => sum + lengthOf(turn), 0);
    for (const turn of sorted) {
      left -= lengthOf(turn);
      if (left <= 0) return turn;
    }
    return Number.NaN;
  }

  get longest(): number {
    return Math.max(...this.#turns);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

/** An idle loop uses no CPU time between two ticks. */
const lengthOf = (turn: number): number => Math.max(turn, TICK_MS);

export function burn(cpuMs: number): void {
  for (const until = threadCpuMs() + cpuMs; threadCpuMs() < until; );
}

function threadCpuMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}
