import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { drawByHash } from './affinity.ts';
import { FALLBACK_CAUSES, type FallbackCause, type Route } from './route-table.ts';
import { EXCESS_MAX, type Plan, Router } from './router.ts';

const NAMES = ['a', 'b', 'c', 'd'] as const;
type State = 'ok' | 'busy' | 'limited' | 'open';
const route: fc.Arbitrary<Route> = fc.record({
  upstream: fc.constantFrom(...NAMES),
  model: fc.constantFrom('m', 'n'),
  weight: fc.integer({ min: 1, max: 1000 }),
});
const plan: fc.Arbitrary<Plan> = fc.record({
  model: fc.constant('m'),
  groups: fc.array(fc.array(route, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 4 }),
  fallbackOn: fc.subarray([...FALLBACK_CAUSES]).map((causes) => new Set<FallbackCause>(causes)),
});
const states = fc.record(
  Object.fromEntries(NAMES.map((name) => [name, fc.constantFrom<State>('ok', 'busy', 'limited', 'open')])),
);
const draw = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const loads = fc.record(Object.fromEntries(NAMES.map((name) => [name, fc.nat(100)])));

function routerIn(state: Readonly<Record<string, State>>, requests: Readonly<Record<string, number>> = {}): Router {
  const router = new Router((name) => ({ isBusy: state[name] === 'busy', requests: requests[name] ?? 0 }));
  for (const name of NAMES) {
    const at = { upstream: name, model: 'm', weight: 1 };
    for (const model of state[name] === 'limited' ? ['m', 'n'] : []) {
      const attempt = router.begin({ ...at, model }, 0);
      router.end(attempt, { kind: 'limited', retryAfterMs: 5_000 }, 0);
    }
    for (let i = 0; state[name] === 'open' && i < 3; i += 1) {
      router.end(router.begin(at, 0), { kind: 'failed', cause: 'connect', retryAfterMs: null }, 0);
    }
  }
  return router;
}

describe('Router', () => {
  it('chooses only an untried route of an available upstream, in the first usable group', () => {
    fc.assert(
      fc.property(plan, states, loads, draw, fc.nat(), (given, state, requests, at, picked) => {
        const all = given.groups.flat();
        const skipped = all.filter((_, i) => ((picked >> i) & 1) === 1);
        const tried = { routes: new Set(skipped), unconnected: new Set<string>() };
        const choice = routerIn(state, requests).choose(given, tried, 1, () => at);
        const isUsable = (one: Route): boolean =>
          !skipped.includes(one) && ['ok', 'busy'].includes(state[one.upstream] ?? '');
        const isFree = (one: Route): boolean => isUsable(one) && state[one.upstream] === 'ok';
        if (choice.kind === 'none') {
          // The first group is left only if each reason that keeps it from serving is a cause for fallback.
          expect(given.groups[0]?.some(isUsable)).toBe(false);
          expect(choice.cause === null).toBe(choice.retryInMs === Number.POSITIVE_INFINITY);
          return;
        }
        expect(isUsable(choice.route)).toBe(true);
        const index = given.groups.findIndex((group) => group.includes(choice.route));
        for (const before of given.groups.slice(0, index)) {
          expect(before.some(isFree)).toBe(false);
          if (before.some(isUsable)) {
            expect(given.fallbackOn.has('busy')).toBe(true);
            continue;
          }
          for (const { upstream } of before.filter((one) => !skipped.includes(one))) {
            const cause = state[upstream] === 'limited' ? '429' : 'connect';
            expect(given.fallbackOn.has(cause)).toBe(true);
          }
        }
        // A busy route is chosen only if no permitted one is free.
        if (!isFree(choice.route)) expect(given.groups[index]?.some(isFree)).toBe(false);
      }),
    );
  });

  const pair = [
    { upstream: 'a', model: 'm', weight: 3 },
    { upstream: 'b', model: 'm', weight: 1 },
  ];
  const fresh = { routes: new Set<Route>(), unconnected: new Set<string>() };
  const planOf = (group: readonly Route[]): Plan => ({ model: 'm', groups: [group], fallbackOn: new Set() });
  const upstreamOf = (router: Router, group: readonly Route[], affinity: string): string => {
    const choice = router.choose(planOf(group), fresh, 0, (one) => drawByHash(affinity, one));
    return choice.kind === 'route' ? choice.route.upstream : 'none';
  };

  it('shares conversations by weight', () => {
    const router = routerIn({});
    const names = Array.from({ length: 4000 }, (_, i) => upstreamOf(router, pair, `c${i}`));
    // 3000 are expected, with a standard deviation of 27.
    const share = names.filter((name) => name === 'a').length;
    expect(Math.abs(share - 3000)).toBeLessThan(6 * 27);
  });

  it('a conversation keeps its upstream, even if a new one is added, unless it moves to that one', () => {
    const router = routerIn({});
    const more = [...pair, { upstream: 'c', model: 'm', weight: 2 }];
    fc.assert(
      fc.property(fc.string(), (conversation) => {
        const before = upstreamOf(router, pair, conversation);
        expect(upstreamOf(router, pair, conversation)).toBe(before);
        expect([before, 'c']).toContain(upstreamOf(router, more, conversation));
      }),
    );
  });

  it('an upstream far beyond its share of the requests gets none, even if it is preferred', () => {
    fc.assert(
      fc.property(fc.string(), fc.nat(500), (conversation, more) => {
        // Its share of them is 3/4.
        const router = routerIn({}, { a: 4 * EXCESS_MAX + more });
        expect(upstreamOf(router, pair, conversation)).toBe('b');
      }),
    );
  });
});
