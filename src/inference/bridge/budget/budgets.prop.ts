import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import type { ModelBudget } from '../../../base/request/model-limits.ts';
import { BudgetAccounts, type Reservation } from './accounts.ts';
import { Budgets } from './budgets.ts';
import { affordableOutput, costOf, dearestOf, FREE, type Price } from './price.ts';

const KINDS = ['inputTokens', 'outputTokens', 'requests', 'costNanoDollars'] as const;
const WINDOW_MS = 1000;
const NOTHING = { inputTokens: 0, outputTokens: 0, costNanoDollars: 0 };

const limits: fc.Arbitrary<ModelBudget> = fc.record(
  {
    inputTokens: fc.integer({ min: 1, max: 500 }),
    outputTokens: fc.integer({ min: 1, max: 500 }),
    requests: fc.integer({ min: 1, max: 20 }),
    costNanoDollars: fc.integer({ min: 1, max: 100_000 }),
  },
  { requiredKeys: [] },
);

/** In trillionths of a dollar per token, so most costs are rounded. */
const price: fc.Arbitrary<Price> = fc
  .tuple(fc.nat({ max: 700_000 }), fc.nat({ max: 700_000 }), fc.double({ min: 0, max: 1, noNaN: true }))
  .map(([input, output, part]) => ({ input, output, cachedInput: Math.floor(part * input) }));

const TENANTS = { a: 'tenant:x', b: 'tenant:x', c: 'tenant:y' } as const;

/**
 * A request that starts, and some steps later ends with a part of what it reserved, is not sent, or leaves, maybe while
 * it waits.
 */
const request = fc.record({
  own: fc.constantFrom('a', 'b', 'c'),
  inputTokens: fc.integer({ min: 0, max: 100 }),
  outputTokens: fc.integer({ min: 0, max: 200 }),
  share: fc.double({ min: 0, max: 1, noNaN: true }),
  end: fc.constantFrom('settle', 'settle', 'release', 'leave'),
  routes: fc.array(price, { minLength: 1, maxLength: 3 }),
  cachedTokens: fc.nat({ max: 100 }),
});

describe('budgets', () => {
  it('Budgets: 1,000 interleavings of requests never exceed the budget of sandbox, tenant or host, and leak nothing', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(limits, { minLength: 6, maxLength: 6 }),
        fc.array(request, { minLength: 1, maxLength: 25 }),
        fc.scheduler(),
        async (budgetsOf, requests, scheduler) => {
          const budgets = new Budgets(new FakeClock());
          const names = ['a', 'b', 'c', 'tenant:x', 'tenant:y', 'host'];
          const limitOf = new Map(names.map((name, index) => [name, budgetsOf[index] ?? {}]));
          const used = new Map<string, Record<(typeof KINDS)[number], number>>(
            names.map((name) => [name, { ...NOTHING, requests: 0 }]),
          );
          const run = async (one: (typeof requests)[number]): Promise<void> => {
            await scheduler.schedule(Promise.resolve(), 'arrives');
            const tenant = TENANTS[one.own];
            const shares = [
              { account: one.own, limits: limitOf.get(one.own) ?? {} },
              { account: tenant, limits: limitOf.get(tenant) ?? {}, holders: [one.own] },
              { account: 'host', limits: limitOf.get('host') ?? {}, holders: [one.own, tenant] },
            ];
            const accounts = shares.map(({ account }) => account);
            const { inputTokens, outputTokens, routes, cachedTokens } = one;
            const price = dearestOf(routes);
            const leaving = new AbortController();
            const isLeft = scheduler.schedule(Promise.resolve(), 'leaves').then(() => {
              if (one.end === 'leave') leaving.abort(new Error('left'));
            });
            let reserved: Awaited<ReturnType<Budgets['reserve']>>;
            try {
              const wanted = { inputTokens, outputTokens, price };
              reserved = await budgets.reserve(() => shares, wanted, leaving.signal);
            } catch (error) {
              expect([one.end, String(error)]).toEqual(['leave', 'Error: left']);
              return;
            }
            if (!reserved.ok) {
              expect(reserved.refusal).toMatchObject({ code: 'budget_spent', isFinal: true });
              const completionTokens = Math.min(1, outputTokens);
              const least = {
                inputTokens,
                outputTokens: completionTokens,
                requests: 1,
                costNanoDollars: costOf(price, { promptTokens: inputTokens, completionTokens }),
              };
              const isSpent = accounts.some((name) =>
                KINDS.some(
                  (kind) =>
                    (used.get(name)?.[kind] ?? 0) + least[kind] >
                    (limitOf.get(name)?.[kind] ?? Number.POSITIVE_INFINITY),
                ),
              );
              expect(isSpent).toBe(true);
              return;
            }
            const { value } = reserved;
            expect(value.outputTokens).toBeLessThanOrEqual(one.outputTokens);
            await scheduler.schedule(Promise.resolve(), 'ends');
            await isLeft;
            // A second end is ignored, whatever it is.
            if (one.end !== 'settle') {
              value.release();
              value.settle({ ...NOTHING, inputTokens: 1 });
              return;
            }
            const output = Math.floor(one.share * value.outputTokens);
            const counts = { promptTokens: inputTokens, completionTokens: output, cachedTokens };
            const costNanoDollars = costOf(routes.at(-1) ?? FREE, counts);
            for (const name of accounts) {
              const sum = used.get(name);
              if (sum === undefined) throw new Error(name);
              sum.inputTokens += inputTokens;
              sum.outputTokens += output;
              sum.requests += 1;
              sum.costNanoDollars += costNanoDollars;
            }
            value.settle({ inputTokens, outputTokens: output, costNanoDollars });
            value.release();
            for (const name of accounts) {
              const use = budgets.useOf(name);
              for (const kind of KINDS) {
                const most = limitOf.get(name)?.[kind] ?? Number.POSITIVE_INFINITY;
                expect(use?.[kind]).toBe(used.get(name)?.[kind]);
                expect(use?.[kind]).toBeLessThanOrEqual(most);
              }
            }
          };
          // Waiting requests are woken when others end, so all end without the clock.
          await scheduler.waitFor(Promise.all(requests.map(run)));
          // Everything that is left can be reserved at once, so nothing is still held.
          for (const name of names) {
            const all = limitOf.get(name) ?? {};
            const left = (kind: (typeof KINDS)[number]): number => (all[kind] ?? 1000) - (used.get(name)?.[kind] ?? 0);
            if (KINDS.some((kind) => left(kind) < 1)) continue;
            const wanted = { inputTokens: left('inputTokens'), outputTokens: left('outputTokens') };
            const share = [{ account: name, limits: all }];
            const rest = await Promise.race([
              budgets.reserve(() => share, wanted, new AbortController().signal),
              new Promise((resolve) => setImmediate(resolve, 'waits')),
            ]);
            expect(rest).toMatchObject({ ok: true, value: { outputTokens: wanted.outputTokens } });
          }
        },
      ),
      { numRuns: 1000 },
    );
  });

  it('BudgetAccounts: agrees with a naive model across windows, restarts and changed limits, which never refund what was used', () => {
    const changed = {
      limit: fc.integer({ min: 1, max: 120 }),
      windowMs: fc.constantFrom(undefined, 350, WINDOW_MS, 7 * WINDOW_MS),
    };
    const step = fc.oneof(
      fc.record({ kind: fc.constant('reserve' as const), output: fc.nat({ max: 50 }) }),
      fc.record({ kind: fc.constant('settle' as const), pick: fc.nat({ max: 9 }) }),
      fc.record({ kind: fc.constant('wait' as const), ms: fc.nat({ max: 700 }) }),
      fc.record({ kind: fc.constant('restart' as const) }),
      // All sandboxes are paused. The daemon restarts, or the same one continues and still knows the account.
      fc.record({ kind: fc.constant('paused' as const), isRestarted: fc.boolean(), ...changed }),
      fc.record({ kind: fc.constant('change' as const), ...changed }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60, size: 'max' }), fc.integer({ min: 1, max: 120 }), (steps, first) => {
        let limit = first;
        let windowMs: number | undefined = WINDOW_MS;
        const windowOf = (): number => (windowMs === undefined ? 0 : Math.floor(clock.wall() / windowMs));
        const clock = new FakeClock();
        let accounts = new BudgetAccounts(clock);
        let open: Reservation[] = [];
        const limitsNow = (): ModelBudget => ({ outputTokens: limit, ...(windowMs === undefined ? {} : { windowMs }) });
        let shares = [{ account: 'a', limits: limitsNow() }];
        let used = 0;
        let window = windowOf();
        const now = (): void => {
          const next = windowOf();
          if (next > window) used = 0;
          window = next;
        };
        for (const one of steps) {
          now();
          const held = open.reduce((sum, each) => sum + each.outputTokens, 0);
          if (one.kind === 'wait') clock.advance(one.ms);
          else if (one.kind === 'change') {
            ({ limit, windowMs } = one);
            window = windowOf();
            // A request that was read earlier names the old limits, even if it is the first one.
            accounts.setLimits('a', limitsNow());
          } else if (one.kind === 'restart' || one.kind === 'paused') {
            const kept = accounts.useOf('a');
            if (one.kind === 'paused') {
              ({ limit, windowMs } = one);
              window = windowOf();
            }
            if (one.kind === 'restart' || one.isRestarted) {
              accounts = new BudgetAccounts(clock);
              open = [];
            }
            const limits = limitsNow();
            shares = [{ account: 'a', limits }];
            accounts.setLimits('a', limits);
            if (kept !== null) accounts.restore({ account: 'a', limits }, kept);
          } else if (one.kind === 'settle') {
            const [ended] = open.splice(one.pick % Math.max(1, open.length), 1);
            if (ended === undefined) continue;
            ended.settle({ ...NOTHING, outputTokens: ended.outputTokens });
            used += ended.outputTokens;
            expect(accounts.useOf('a')?.outputTokens).toBe(used);
          } else {
            const result = accounts.reserve(shares, { inputTokens: 7, outputTokens: one.output });
            const left = limit - used;
            if (one.output === 0 || left - held >= 1) {
              if (result.kind !== 'reserved') throw new Error(`${result.kind}, ${left} left`);
              expect(result.reservation.outputTokens).toBe(one.output === 0 ? 0 : Math.min(one.output, left - held));
              open.push(result.reservation);
            } else if (left < 1) {
              const inMs = windowMs === undefined ? null : windowMs - (clock.wall() % windowMs);
              expect(result).toMatchObject({ kind: 'spent', by: 'outputTokens', inMs });
            } else expect(result).toMatchObject({ kind: 'later', by: 'outputTokens', inMs: null });
          }
        }
      }),
      { numRuns: 500 },
    );
  });

  it('BudgetAccounts: a clock that jumps gives nothing back within a window, and blocks an account for at most two windows', () => {
    const jump = fc.integer({ min: -20 * WINDOW_MS, max: 20 * WINDOW_MS });
    fc.assert(
      fc.property(fc.array(jump, { minLength: 1, maxLength: 20 }), (jumps) => {
        const fake = new FakeClock();
        let wallMs = fake.wall();
        const clock = { now: () => fake.now(), wall: () => wallMs, after: () => () => undefined };
        let accounts = new BudgetAccounts(clock);
        const share = { account: 'a', limits: { outputTokens: 10, windowMs: WINDOW_MS } };
        const spend = () => {
          const result = accounts.reserve([share], { inputTokens: 1, outputTokens: 10 });
          if (result.kind !== 'reserved') return result;
          result.reservation.settle({ ...NOTHING, outputTokens: 10 });
          return null;
        };
        for (const ms of jumps) {
          spend();
          const before = Math.floor(wallMs / WINDOW_MS);
          wallMs += ms;
          if (Math.floor(wallMs / WINDOW_MS) > before) continue;
          const kept = accounts.useOf('a');
          // A restarted daemon reads what the previous one has kept.
          if (ms % 2 === 0) accounts = new BudgetAccounts(clock);
          if (kept !== null) accounts.restore(share, kept);
          const result = spend();
          if (result?.kind !== 'spent') throw new Error('a clock that is set back gave a budget');
          expect(result.inMs).toBeGreaterThan(0);
          expect(result.inMs).toBeLessThanOrEqual(2 * WINDOW_MS);
          wallMs += result.inMs ?? 0;
          expect(spend()).toBe(null);
        }
      }),
    );
  });

  it('Budgets: over any time, a rate lets through at most a minute’s tokens, the rate times the time, and one request', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 20 }),
        fc.integer({ min: 60, max: 600 }),
        async (prompts, tokensPerMinute) => {
          const clock = new FakeClock();
          const budgets = new Budgets(clock);
          const shares = [{ account: 'a', limits: { tokensPerMinute } }];
          let passed = 0;
          for (const inputTokens of prompts) {
            let isDone = false;
            const reserving = budgets
              .reserve(() => shares, { inputTokens, outputTokens: 0 }, new AbortController().signal)
              .finally(() => {
                isDone = true;
              });
            for (let i = 0; i < 200 && !isDone; i += 1) {
              await new Promise(setImmediate);
              if (!isDone) clock.advance(500);
            }
            const reserved = await reserving;
            if (!reserved.ok) {
              expect(reserved.refusal.code).toBe('rate_limited');
              continue;
            }
            passed += inputTokens;
            reserved.value.settle({ ...NOTHING, inputTokens });
            const allowed = tokensPerMinute + (tokensPerMinute * clock.now()) / 60_000;
            expect(passed - inputTokens).toBeLessThanOrEqual(allowed + 1e-6);
          }
        },
      ),
      { numRuns: 30 },
    );
  });

  it('BudgetAccounts: sums stay exact for unlimited answers of any length', () => {
    const wanted = fc.array(
      fc.record({
        inputTokens: fc.nat({ max: 1e6 }),
        outputTokens: fc.constantFrom(1, 16_384, Number.MAX_SAFE_INTEGER, 2 ** 100),
        price,
      }),
      { minLength: 1, maxLength: 20 },
    );
    fc.assert(
      fc.property(wanted, (requests) => {
        const accounts = new BudgetAccounts(new FakeClock());
        const shares = [{ account: 'a', limits: { requests: requests.length } }];
        const reservations = requests.map((one) => accounts.reserve(shares, one));
        for (const each of reservations) {
          if (each.kind !== 'reserved') throw new Error(each.kind);
          each.reservation.settle({ ...NOTHING, outputTokens: 1 });
        }
        const count = requests.length;
        expect(accounts.useOf('a')).toMatchObject({ requests: count, outputTokens: count });
      }),
    );
  });

  it('BudgetAccounts: a holder, or many of one group, that asks for answers of any length and number leaves a part to the others', () => {
    const greedy = fc.record({
      inputTokens: fc.nat({ max: 10 }),
      outputTokens: fc.constantFrom(16_384, 100_000, 1e12, Number.MAX_SAFE_INTEGER),
      answers: fc.constantFrom(1, 2, 10_000, 1e9),
      price: fc.constantFrom(FREE, { input: 1000, output: 1000, cachedInput: 0 }),
    });
    fc.assert(
      fc.property(
        fc.array(greedy, { minLength: 1, maxLength: 40 }),
        fc.integer({ min: 40_000, max: 10_000_000 }),
        fc.constantFrom('outputTokens' as const, 'costNanoDollars' as const),
        fc.integer({ min: 1, max: 5 }),
        (requests, limit, kind, members) => {
          const accounts = new BudgetAccounts(new FakeClock());
          const of = (...holders: string[]) => [{ account: 'all', limits: { [kind]: limit }, holders }];
          const open = requests.flatMap((one, n) => {
            const greedyOne = members === 1 ? ['greedy'] : [`member ${n % members}`, 'greedy'];
            const result = accounts.reserve(of(...greedyOne), one);
            return result.kind === 'reserved' ? [{ one, made: result.reservation }] : [];
          });
          const held = open.reduce(
            (sum, { one: { inputTokens, price: paid }, made: { outputTokens, limitsOutput } }) => {
              if (!limitsOutput) return sum;
              if (kind === 'outputTokens') return sum + outputTokens;
              return sum + costOf(paid, { promptTokens: inputTokens, completionTokens: outputTokens });
            },
            0,
          );
          expect(held).toBeLessThanOrEqual(limit / 2);
          const other = { inputTokens: 10, outputTokens: 5000, price: requests[0]?.price ?? FREE };
          const result = accounts.reserve(of('other'), other);
          expect(result).toMatchObject({ kind: 'reserved', reservation: { outputTokens: 5000 } });
          for (const { made } of open) made.release();
          // Nothing is held any more.
          const again = accounts.reserve(of('greedy'), { inputTokens: 0, outputTokens: 16_384 });
          expect(again.kind).toBe('reserved');
        },
      ),
    );
  });

  it('BudgetAccounts: a reservation has at least one token for each answer, or is refused', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1000 }),
        fc.integer({ min: 1, max: 2000 }),
        fc.integer({ min: 1, max: 50 }),
        (left, answers, tokens) => {
          const accounts = new BudgetAccounts(new FakeClock());
          const shares = [{ account: 'a', limits: { outputTokens: left } }];
          const wanted = { inputTokens: 1, outputTokens: answers * tokens, answers };
          const result = accounts.reserve(shares, wanted);
          if (result.kind === 'reserved') {
            expect(result.reservation.outputTokens).toBeGreaterThanOrEqual(answers);
            expect(result.reservation.outputTokens).toBeLessThanOrEqual(left);
          } else expect([result.kind, left < answers]).toEqual(['spent', true]);
        },
      ),
    );
  });

  it('affordableOutput: that many tokens cost at most what is left, and one more costs more', () => {
    fc.assert(
      fc.property(price, fc.nat({ max: 1e9 }), fc.nat({ max: 1e15 }), (of, promptTokens, left) => {
        const most = affordableOutput(of, promptTokens, left);
        const cost = (completionTokens: number): number => costOf(of, { promptTokens, completionTokens });
        if (most === null) expect([of.output, cost(1e9) <= left]).toEqual([0, true]);
        else if (most < 0) expect(cost(0)).toBeGreaterThan(left);
        else if (most < Number.MAX_SAFE_INTEGER) {
          expect(cost(most)).toBeLessThanOrEqual(left);
          expect(cost(most + 1)).toBeGreaterThan(left);
        }
      }),
    );
  });

  it('costOf: for any counts of an upstream, a cost is exact, not negative, and at most that of its tokens at the dearest price', () => {
    const tokens = fc.maxSafeNat();
    fc.assert(
      fc.property(fc.array(price, { minLength: 1, maxLength: 4 }), tokens, tokens, tokens, (all, p, c, cached) => {
        const costs = all.map((one) => costOf(one, { promptTokens: p, completionTokens: c, cachedTokens: cached }));
        const dearest = costOf(dearestOf(all), { promptTokens: p, completionTokens: c });
        for (const cost of costs) {
          expect(Number.isSafeInteger(cost) && cost >= 0).toBe(true);
          expect(cost).toBeLessThanOrEqual(dearest);
        }
      }),
    );
  });
});
