/** The percentage of the last 10 s in which threads of one VMM waited for memory reclaim, for reports. Pure. */

const WINDOW_MS = 10_000;
/** Time between two reports. */
const REPEAT_MS = 5_000;
const NS_PER_MS = 1e6;
/** There are at most ten events per second (bpf/processes.bpf.c). */
const SAMPLES_MAX = 200;

export class ReclaimMeter {
  /** Sums at their times, oldest first. */
  #samples: { readonly atMs: number; readonly sumNs: number }[] = [];
  #toldAtMs = Number.NEGATIVE_INFINITY;
  #lastNs = 0;

  /**
   * Records the end of a wait.
   * @param sumNs sum of all waits of all threads until now
   * @param nowMs monotonic
   * @returns percent of the last 10 s, at most 100; `null` if reported a moment ago
   */
  note(sumNs: number, nowMs: number): number | null {
    // For the first wait, the window begins with the sum before it.
    if (this.#samples.length === 0) this.#samples.push({ atMs: nowMs, sumNs: this.#lastNs });
    this.#lastNs = sumNs;
    this.#samples.push({ atMs: nowMs, sumNs });
    const begin = nowMs - WINDOW_MS;
    const first = this.#samples.findLastIndex(({ atMs }) => atMs <= begin);
    this.#samples = this.#samples.slice(Math.max(first, 0)).slice(-SAMPLES_MAX);
    if (nowMs - this.#toldAtMs < REPEAT_MS) return null;
    this.#toldAtMs = nowMs;
    const waitedNs = sumNs - (this.#samples[0]?.sumNs ?? sumNs);
    const percent = (waitedNs / NS_PER_MS / WINDOW_MS) * 100;
    return Math.min(100, Math.round(percent * 100) / 100);
  }
}
