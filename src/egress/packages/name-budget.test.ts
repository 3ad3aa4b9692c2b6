import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { PORT_LIMITS } from './limits.ts';
import { NameBudget } from './name-budget.ts';

describe('NameBudget', () => {
  it('long names exhaust it sooner than short ones; earlier names stay free', () => {
    const { namesMax, nameCharactersMax } = PORT_LIMITS;
    const budget = new NameBudget(new FakeClock());
    const named = (at: number): string => `go:${String(at).padStart(997, 'x')}`;
    let taken = 0;
    while (budget.take(named(taken)).ok) taken += 1;
    expect(taken).toBe(nameCharactersMax / 1000);
    expect(taken).toBeLessThan(namesMax);
    expect(budget.take(named(taken))).toMatchObject({ refusal: { status: 403, code: 'too_many_names' } });
    expect(budget.take(named(0))).toMatchObject({ ok: true, value: { isNew: false } });
  });
});
