import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { ANSWER_OVERHEAD_BYTES, AnswerStore, type CacheScope } from './answer-store.ts';

const BYTES_MAX = 10_000;
const scope = fc.constantFrom<CacheScope>('a', 'b', null);
const key = fc.constantFrom('k1', 'k2', 'k3', 'k4');
const jump = fc.oneof(fc.nat(100), fc.nat(200_000), fc.integer({ min: -5000, max: -1 }));

const action = fc.oneof(
  fc.record({ type: fc.constant('get' as const), scope, key, ageMsMax: fc.nat(5000) }),
  fc.record({
    type: fc.constant('put' as const),
    scope,
    key,
    pieces: fc.array(fc.nat(4000), { maxLength: 4 }),
    ttlMs: fc.integer({ min: 1, max: 5000 }),
    fate: fc.constantFrom('keep', 'keep', 'drop', 'leave'),
  }),
  fc.record({ type: fc.constant('pass' as const), ms: jump }),
);

class JumpingClock extends FakeClock {
  #byMs = 0;
  override now(): number {
    return super.now() + this.#byMs;
  }
  pass(ms: number): void {
    if (ms < 0) this.#byMs += ms;
    else this.advance(ms);
  }
}

interface Known {
  readonly scope: CacheScope;
  readonly key: string;
  readonly value: number;
  readonly bytes: number;
  readonly ttlMs: number;
  readonly atMs: number;
}

/** A naive model: a list, least recently used first, that ignores time. */
class Model {
  known: Known[] = [];
  readonly drafts = new Map<object, { readonly scope: CacheScope; bytes: number }>();

  heldBy(scope: CacheScope): number {
    return [...this.known, ...this.drafts.values()]
      .filter((one) => one.scope === scope)
      .reduce((sum, { bytes }) => sum + bytes, 0);
  }

  get bytes(): number {
    return (['a', 'b', null] as const).reduce((sum, one) => sum + this.heldBy(one), 0);
  }

  grow(draft: { readonly scope: CacheScope; bytes: number }, bytes: number): boolean {
    if (bytes > BYTES_MAX) return false;
    while (this.bytes + bytes > BYTES_MAX) {
      const after = (one: CacheScope): number => this.heldBy(one) + (one === draft.scope ? bytes : 0);
      const most = Math.max(after('a'), after('b'), after(null));
      const [largest, ...others] = [draft.scope, 'a', 'b', null].filter(
        (one, index, all) => after(one) === most && all.indexOf(one) === index,
      );
      // If two other scopes hold the same, either may lose an answer.
      fc.pre(others.length === 0 || largest === draft.scope);
      const victim = this.known.find((one) => one.scope === largest);
      if (victim === undefined) return false;
      this.known = this.known.filter((one) => one !== victim);
    }
    draft.bytes += bytes;
    return true;
  }
}

describe('AnswerStore', () => {
  it('expires and evicts like a list, stays within its memory, and returns to each scope its own answers', () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 80 }), (actions) => {
        const clock = new JumpingClock();
        const store = new AnswerStore<{ scope: CacheScope; number: number }>(clock, BYTES_MAX);
        const model = new Model();
        const left: (() => void)[] = [];
        let number = 0;
        const isOver = ({ atMs, ttlMs }: Known): boolean => {
          const age = clock.now() - atMs;
          return age < 0 || age >= ttlMs;
        };
        for (const one of actions) {
          if (one.type === 'pass') {
            const before = store.count;
            clock.pass(one.ms);
            // The sweep removed only expired answers.
            if (store.count < before) model.known = model.known.filter((each) => !isOver(each));
          } else if (one.type === 'get') {
            const there = model.known.find((each) => each.scope === one.scope && each.key === one.key);
            const got = store.get(one.scope, one.key, one.ageMsMax);
            const isOld = there !== undefined && clock.now() - there.atMs >= one.ageMsMax;
            if (there === undefined || isOver(there) || isOld) expect(got).toBeUndefined();
            else expect(got).toEqual({ scope: one.scope, number: there.value });
            if (there !== undefined && (isOver(there) || !isOld)) {
              model.known = model.known.filter((each) => each !== there);
              if (!isOver(there)) model.known.push(there);
            }
          } else {
            number += 1;
            const draft = store.begin(one.scope);
            const held = { scope: one.scope, bytes: 0 };
            model.drafts.set(draft, held);
            let fits = true;
            for (const bytes of one.pieces) {
              fits &&= model.grow(held, bytes);
              expect(draft.grow(bytes)).toBe(fits);
              if (!fits) model.drafts.delete(draft);
            }
            if (one.fate === 'leave' && fits) {
              left.push(() => draft.drop());
              continue;
            }
            if (one.fate === 'keep') {
              draft.keep(one.key, { scope: one.scope, number }, one.ttlMs);
              fits &&= model.grow(held, ANSWER_OVERHEAD_BYTES);
              if (fits) {
                model.known = model.known.filter((each) => each.scope !== one.scope || each.key !== one.key);
                const { scope: owner, key: name, ttlMs } = one;
                const { bytes } = held;
                const atMs = clock.now();
                model.known.push({ scope: owner, key: name, value: number, bytes, ttlMs, atMs });
              }
            }
            draft.drop();
            model.drafts.delete(draft);
          }
          expect(store.bytes).toBeLessThanOrEqual(BYTES_MAX);
          expect([store.bytes, store.count]).toEqual([model.bytes, model.known.length]);
        }
        for (const drop of left) drop();
        model.drafts.clear();
        expect(store.bytes).toBe(model.bytes);
        // Without further requests, time alone empties it.
        clock.advance(400_000);
        expect([store.bytes, store.count]).toEqual([0, 0]);
      }),
    );
  });
});
