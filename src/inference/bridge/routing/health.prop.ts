/** Tests the breaker against a naive model with full history, and its bounds under any events. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { type AttemptEnd, Health, type HealthLimits } from './health.ts';

const LIMITS: HealthLimits = { failuresMax: 3, openMs: 100, openMsMax: 350, pauseMs: 50, pauseMsMax: 1_000 };

const wait = fc.option(fc.integer({ min: -10, max: 5_000 }));
const failed = (retryAfterMs: fc.Arbitrary<number | null>): fc.Arbitrary<AttemptEnd> =>
  fc.record({
    kind: fc.constant('failed' as const),
    cause: fc.constantFrom('connect' as const, '5xx' as const),
    retryAfterMs,
  });
// Mostly failures; otherwise the breaker would rarely open.
const end: fc.Arbitrary<AttemptEnd> = fc.oneof(
  { weight: 12, arbitrary: failed(fc.constant(null)) },
  failed(wait),
  fc.constant({ kind: 'answered' } as const),
  fc.constant({ kind: 'unsure' } as const),
  fc.record({ kind: fc.constant('limited' as const), retryAfterMs: wait }),
);
type Step =
  | { readonly kind: 'pass'; readonly ms: number }
  | { readonly kind: 'begin'; readonly model: string }
  | { readonly kind: 'end'; readonly index: number; readonly end: AttemptEnd };
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant('pass' as const), ms: fc.constantFrom(0, 50, 100, 199, 350) }),
  fc.record({ kind: fc.constant('begin' as const), model: fc.constantFrom('m', 'n') }),
  fc.record({ kind: fc.constant('end' as const), index: fc.nat(2), end }),
);

/** The rules of the state diagram, as a list of facts. */
class Model {
  streak = 0;
  opens: number[] = [];
  readonly probes = new Set<object>();
  probeUntil = Number.NEGATIVE_INFINITY;
  /** `model` is null if the pause applies to all models. */
  pauses: { readonly model: string | null; readonly until: number }[] = [];

  get openMs(): number {
    return Math.min(LIMITS.openMs * 2 ** (this.opens.length - 1), LIMITS.openMsMax);
  }

  probe(attempt: object, now: number): void {
    this.probes.add(attempt);
    this.probeUntil = now + this.openMs;
  }

  isAvailable(now: number, model: string): boolean {
    const isPaused = this.pauses.some((one) => now < one.until && (one.model === null || one.model === model));
    if (isPaused) return false;
    const last = this.opens.at(-1);
    if (last === undefined) return true;
    return now >= last + this.openMs && now >= this.probeUntil;
  }

  end(attempt: { readonly model: string }, end: AttemptEnd, now: number): void {
    const isProbe = this.probes.delete(attempt);
    if (isProbe) this.probeUntil = Number.NEGATIVE_INFINITY;
    if (end.kind === 'limited' || (end.kind === 'failed' && end.retryAfterMs !== null)) {
      const asked = end.retryAfterMs ?? LIMITS.pauseMs;
      this.pauses.push({
        model: end.kind === 'limited' ? attempt.model : null,
        until: now + Math.min(Math.max(asked, 0), LIMITS.pauseMsMax),
      });
    }
    if (end.kind === 'unsure' || (this.opens.length > 0 && !isProbe)) return;
    if (end.kind === 'failed') {
      this.streak += 1;
      const wasOpen = this.opens.length > 0;
      if ((isProbe && wasOpen) || this.streak >= LIMITS.failuresMax) this.opens.push(now);
    } else {
      this.streak = 0;
      this.opens = [];
    }
  }
}

it('Health: agrees with its model after any steps, and a refusal names a bounded time', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 30, maxLength: 120 }), (steps) => {
      const health = new Health(LIMITS);
      const model = new Model();
      const running: { readonly isProbe: boolean; readonly model: string }[] = [];
      let now = 0;
      for (const one of steps) {
        if (one.kind === 'pass') now += one.ms;
        else if (one.kind === 'begin') {
          if (!health.availability(now, one.model).ok) continue;
          const attempt = health.begin(now, one.model);
          if (model.opens.length > 0) model.probe(attempt, now);
          running.push(attempt);
        } else {
          const [attempt] = running.splice(one.index, 1);
          if (attempt === undefined) continue;
          health.end(attempt, one.end, now);
          model.end(attempt, one.end, now);
        }
        for (const name of ['m', 'n']) {
          const availability = health.availability(now, name);
          expect(availability.ok).toBe(model.isAvailable(now, name));
          if (availability.ok) continue;
          expect(availability.retryInMs).toBeGreaterThan(0);
          expect(availability.retryInMs).toBeLessThanOrEqual(LIMITS.pauseMsMax);
          // Once nothing runs, waiting for the named time is enough.
          if (running.length > 0) continue;
          const later = now + availability.retryInMs;
          const then = health.availability(later, name);
          if (!then.ok) expect(health.availability(later + then.retryInMs, name).ok).toBe(true);
        }
      }
    }),
  );
});

it("Health: outcomes that one request's content can cause open nothing", () => {
  const health = new Health(LIMITS);
  for (let i = 0; i < 100; i += 1) health.end(health.begin(i, 'm'), { kind: 'unsure' }, i);
  expect(health.availability(100, 'm')).toEqual({ ok: true });
});

it('Health: an unanswered probe keeps others out only for a bounded time', () => {
  const health = new Health(LIMITS);
  const failure = { kind: 'failed', cause: 'connect', retryAfterMs: null } as const;
  for (let i = 0; i < LIMITS.failuresMax; i += 1) health.end(health.begin(0, 'm'), failure, 0);
  const first = health.begin(100, 'm');
  expect(health.availability(150, 'm')).toEqual({ ok: false, cause: 'connect', retryInMs: 50 });
  expect(health.availability(200, 'm').ok).toBe(true);
  const second = health.begin(200, 'm');
  expect(health.availability(200, 'm').ok).toBe(false);
  health.end(first, { kind: 'unsure' }, 210);
  health.end(second, { kind: 'answered' }, 220);
  expect(health.availability(220, 'm')).toEqual({ ok: true });
});

it('keeps the thousand model pauses that end last, whatever names guests invent', () => {
  const health = new Health({ ...LIMITS, pauseMsMax: 1_000_000 });
  const limit = (model: string, retryAfterMs: number): void =>
    health.end(health.begin(0, model), { kind: 'limited', retryAfterMs }, 0);
  for (let i = 1; i <= 1_500; i += 1) limit(`m${i}`, 1_000 * i);
  const isPaused = (i: number) => !health.availability(0, `m${i}`).ok;
  expect([1, 500, 501, 1_500].map(isPaused)).toEqual([false, false, true, true]);
  const long = 'm'.repeat(1_001);
  limit(long, 1_000_000);
  expect(health.availability(0, long).ok).toBe(true);
});
