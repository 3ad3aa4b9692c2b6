/**
 * Measures how long the event loop of this process is held at a time, in CPU time: other programs of a busy machine do
 * not count.
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
   * So long, in milliseconds, or shorter is the loop held in 99 % of the time, without the longest turn: in a measurement of
   * 4 s that one alone may be the hundredth part, and it may be a collection of garbage that no guest caused.
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

/** Holds the loop. */
export function burn(cpuMs: number): void {
  for (const until = threadCpuMs() + cpuMs; threadCpuMs() < until; );
}

function threadCpuMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}
