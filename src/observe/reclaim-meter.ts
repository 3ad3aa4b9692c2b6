/**
 * How much of the last 10 s threads of one VMM waited while the kernel looked for memory: what is worth telling
 * of it. Pure.
 */

const WINDOW_MS = 10_000;
/** Between two that are told. */
const REPEAT_MS = 5_000;
const NS_PER_MS = 1e6;
/** Told are ten in a second at most (bpf/processes.bpf.c). */
const SAMPLES_MAX = 200;

export class ReclaimMeter {
  /** Sums at their times, oldest first. */
  #samples: { readonly atMs: number; readonly sumNs: number }[] = [];
  #toldAtMs = Number.NEGATIVE_INFINITY;
  #lastNs = 0;

  /**
   * A wait has ended.
   * @param sumNs of all waits until now, of all threads
   * @param nowMs monotonic
   * @returns percent of the last 10 s, at most 100, when it is to be told; null: it was told a moment before
   */
  note(sumNs: number, nowMs: number): number | null {
    // What it was before this wait is where the window begins for the first one.
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
