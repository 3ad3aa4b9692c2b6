/**
 * Turns of the event loop, which serves everybody: how long they were, and which code took the longest ones. Pure.
 *
 *     LoopWatch ── a turn, a sampled place ─► LongTurns ─► /metrics, GET /v1/host, doctor
 */
import { gauge, Histogram, type Metric } from '../../base/metrics.ts';
import type { LongTurn } from '../../sandbox/contract/control.ts';

/** Budget of one turn, milliseconds: nobody waits longer for another. */
export const TURN_MS_MAX = 50;
/** Kept long turns: the longest ones. */
const KEPT_MAX = 10;
/** A kept turn is forgotten after this time, milliseconds. */
const KEPT_MS = 24 * 60 * 60 * 1000;
const BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10] as const;

/** A measured turn. Times in milliseconds; `startMs` and `endMs` of one monotonic clock. */
export interface Turn {
  readonly startMs: number;
  readonly endMs: number;
  /** How late the timer was: the turn was at least this long. */
  readonly lateMs: number;
  readonly cpuMs: number;
  /** Its end since 1970. */
  readonly wallMs: number;
}

/** The code that ran at one moment. */
export interface Sample {
  /** On the clock of turns. */
  readonly atMs: number;
  readonly place: string;
}

export class LongTurns {
  /** Longest first. */
  #kept: { readonly turn: Turn; place: string | null }[] = [];
  /** Its turn still lasts, or was too short to be kept. */
  #sample: Sample | undefined;
  #longestMs = 0;
  readonly #turns = new Histogram(
    'neurovisor_loop_turn_seconds',
    'Turns of the daemon’s event loop: by how much a timer of 40 ms was late.',
    [],
    { bounds: BOUNDS },
  );

  metrics(): readonly Metric[] {
    return [
      this.#turns,
      gauge(
        'neurovisor_loop_longest_turn_seconds',
        'Longest turn of the event loop since the start.',
        () => this.#longestMs / 1000,
      ),
    ];
  }

  note(turn: Turn): void {
    this.#turns.observe({}, turn.lateMs / 1000);
    this.#longestMs = Math.max(this.#longestMs, turn.lateMs);
    if (turn.lateMs <= TURN_MS_MAX) return;
    const place = this.#sample !== undefined && isIn(turn, this.#sample) ? this.#sample.place : null;
    const recent = this.#kept.filter((one) => isRecent(one.turn, turn.wallMs));
    this.#kept = [...recent, { turn, place }].sort((a, b) => b.turn.lateMs - a.turn.lateMs).slice(0, KEPT_MAX);
  }

  /** Its turn may be known already, or still last. */
  sampled(sample: Sample): void {
    const known = this.#kept.find(({ turn }) => isIn(turn, sample));
    if (known !== undefined) known.place = sample.place;
    this.#sample = sample;
  }

  /** The longest turns of the last day over `TURN_MS_MAX`, longest first. */
  list(wallMs: number): readonly LongTurn[] {
    return this.#kept
      .filter(({ turn }) => isRecent(turn, wallMs))
      .map(({ turn, place }) => ({
        atMs: turn.wallMs,
        ms: Math.round(turn.lateMs),
        cpuMs: Math.round(turn.cpuMs),
        place,
      }));
  }
}

const isIn = ({ startMs, endMs }: Turn, { atMs }: Sample): boolean => atMs >= startMs && atMs <= endMs;

const isRecent = (turn: Turn, wallMs: number): boolean => turn.wallMs > wallMs - KEPT_MS;
