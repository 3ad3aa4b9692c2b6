/**
 * Decides whether an upstream is worth an attempt: a circuit breaker, and the pause that a 429 asks for. Pure.
 *
 *     closed ── failures in a row ──► open ── time ──► half open: one attempt ── success ──► closed
 *        ▲                             ▲                        └──── failure: twice the time ──┐
 *        └── 503 with a time: pause, any state ────────────────────────────────────────────────────┘
 *
 * A 429 pauses one model of the upstream: hosted services limit each model of a key, and no header says that the limit
 * is wider.
 *
 * An attempt of a half-open breaker may take minutes until its answer begins, so it keeps others out only for as long
 * as the breaker was open.
 *
 * Only failures that no single request can cause count: no connection, and the statuses 502 to 504 of a gateway or an
 * overloaded server. A 500 or a timeout may be due to one sandbox's prompt, which must not lock out all others.
 */
import type { FailureCause } from './route-table.ts';

export interface HealthLimits {
  readonly failuresMax: number;
  readonly openMs: number;
  readonly openMsMax: number;
  /** Pause after a 429 without a time. */
  readonly pauseMs: number;
  /** Limit of a pause that an upstream asks for. */
  readonly pauseMsMax: number;
}

export const HEALTH_LIMITS: HealthLimits = {
  failuresMax: 3,
  openMs: 2_000,
  openMsMax: 60_000,
  pauseMs: 1_000,
  pauseMsMax: 600_000,
};

/** Limit of models with a pause of their own. Without a model list of the upstream, guests may use any name. */
const LIMITED_MODELS_MAX = 1_000;
const LIMITED_NAME_CHARACTERS_MAX = 1_000;

export type Availability =
  | { readonly ok: true }
  | { readonly ok: false; readonly cause: FailureCause; readonly retryInMs: number };

const AVAILABLE: Availability = { ok: true };

/**
 * How an attempt ended, with the wait that the answer asks for, if any. `unsure`: canceled, or a failure that the
 * request itself may have caused.
 */
export type AttemptEnd =
  | { readonly kind: 'answered' }
  | { readonly kind: 'failed'; readonly cause: Exclude<FailureCause, '429'>; readonly retryAfterMs: number | null }
  | { readonly kind: 'limited'; readonly retryAfterMs: number | null }
  | { readonly kind: 'unsure' };

export class Health {
  readonly #limits: HealthLimits;
  #failures = 0;
  /** `null` while closed. */
  #openUntilMs: number | null = null;
  #openMs: number;
  #cause: FailureCause = 'connect';
  /** Until then, only the half-open breaker's attempt runs. */
  #probingUntilMs = Number.NEGATIVE_INFINITY;
  #pausedUntilMs = Number.NEGATIVE_INFINITY;
  #pauseCause: FailureCause = '5xx';
  /** Ends of the pauses after 429s, by model. Expired ones are removed at the next 429. */
  readonly #limitedUntilMs = new Map<string, number>();

  constructor(limits: HealthLimits = HEALTH_LIMITS) {
    this.#limits = limits;
    this.#openMs = limits.openMs;
  }

  availability(nowMs: number, model: string): Availability {
    const limitedMs = (this.#limitedUntilMs.get(model) ?? Number.NEGATIVE_INFINITY) - nowMs;
    const own = this.#ownAvailability(nowMs);
    if (limitedMs <= 0 || (!own.ok && own.retryInMs >= limitedMs)) return own;
    return { ok: false, cause: '429', retryInMs: limitedMs };
  }

  #ownAvailability(nowMs: number): Availability {
    if (nowMs < this.#pausedUntilMs) {
      return { ok: false, cause: this.#pauseCause, retryInMs: this.#pausedUntilMs - nowMs };
    }
    if (this.#openUntilMs === null) return AVAILABLE;
    if (nowMs < this.#openUntilMs) {
      return { ok: false, cause: this.#cause, retryInMs: this.#openUntilMs - nowMs };
    }
    return nowMs < this.#probingUntilMs
      ? { ok: false, cause: this.#cause, retryInMs: this.#probingUntilMs - nowMs }
      : AVAILABLE;
  }

  /** Begins an attempt at an available model. `isProbe` is true if it is the attempt of a half-open breaker. */
  begin(nowMs: number, model: string): { readonly isProbe: boolean; readonly model: string } {
    const isProbe = this.#openUntilMs !== null;
    if (isProbe) this.#probingUntilMs = nowMs + this.#openMs;
    return { isProbe, model };
  }

  end({ isProbe, model }: { readonly isProbe: boolean; readonly model: string }, end: AttemptEnd, nowMs: number): void {
    if (isProbe) this.#probingUntilMs = Number.NEGATIVE_INFINITY;
    if (end.kind === 'limited') this.#limit(model, end.retryAfterMs, nowMs);
    if (end.kind === 'failed' && end.retryAfterMs !== null) {
      this.#pause(end.retryAfterMs, end.cause, nowMs);
    }
    // While the breaker is open, earlier attempts don't decide.
    if (end.kind === 'unsure' || (this.#openUntilMs !== null && !isProbe)) return;
    // Another probe may have closed it meanwhile.
    if (end.kind === 'failed') this.#fail(end.cause, isProbe && this.#openUntilMs !== null, nowMs);
    else this.#close();
  }

  #limit(model: string, retryAfterMs: number | null, nowMs: number): void {
    if (model.length > LIMITED_NAME_CHARACTERS_MAX) return;
    for (const [name, until] of this.#limitedUntilMs) {
      if (until <= nowMs) this.#limitedUntilMs.delete(name);
    }
    const until = this.#pauseEndMs(retryAfterMs, nowMs);
    const before = this.#limitedUntilMs.get(model) ?? until;
    this.#limitedUntilMs.set(model, Math.max(until, before));
    if (this.#limitedUntilMs.size <= LIMITED_MODELS_MAX) return;
    const first = [...this.#limitedUntilMs].reduce((a, b) => (b[1] < a[1] ? b : a));
    this.#limitedUntilMs.delete(first[0]);
  }

  #pauseEndMs(retryAfterMs: number | null, nowMs: number): number {
    const { pauseMs, pauseMsMax } = this.#limits;
    return nowMs + Math.min(Math.max(retryAfterMs ?? pauseMs, 0), pauseMsMax);
  }

  #pause(retryAfterMs: number | null, cause: FailureCause, nowMs: number): void {
    const until = this.#pauseEndMs(retryAfterMs, nowMs);
    if (until <= this.#pausedUntilMs) return;
    this.#pausedUntilMs = until;
    this.#pauseCause = cause;
  }

  #fail(cause: FailureCause, isProbe: boolean, nowMs: number): void {
    const { failuresMax, openMsMax } = this.#limits;
    this.#failures += 1;
    if (!isProbe && this.#failures < failuresMax) return;
    if (isProbe) this.#openMs = Math.min(2 * this.#openMs, openMsMax);
    this.#openUntilMs = nowMs + this.#openMs;
    this.#cause = cause;
  }

  #close(): void {
    this.#failures = 0;
    this.#openUntilMs = null;
    this.#openMs = this.#limits.openMs;
  }
}
