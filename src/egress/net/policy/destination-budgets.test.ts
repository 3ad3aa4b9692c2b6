import { describe, expect, it } from 'vitest';
import { DestinationBudgets, type DestinationLimit, Meter } from './destination-budgets.ts';

const LIMITS: readonly DestinationLimit[] = [
  { name: 'a.example', bytesMax: 100 },
  { name: '*.b.example', bytesMax: 50 },
];
const used = (budgets: DestinationBudgets) => budgets.use().map(({ bytesUsed }) => bytesUsed);

describe('DestinationBudgets', () => {
  it('all connections to a name share one budget, and so do all names below a wildcard', () => {
    const budgets = new DestinationBudgets(LIMITS, {});
    for (const [host, bytes] of [
      ['a.example', 60],
      ['a.example', 40],
      ['x.b.example', 20],
      ['y.z.b.example', 20],
      ['b.example', 1000],
      ['xb.example', 1000],
      ['c.example', 1000],
    ] as const) {
      const meter = new Meter(budgets);
      expect(meter.add(host) && meter.count(bytes), `${host} ${bytes}`).toBe(true);
    }
    expect(used(budgets)).toEqual([100, 40]);
    expect(budgets.isExhausted('a.example')).toBe(true);
    expect(budgets.isExhausted('x.b.example')).toBe(false);
    expect(budgets.isExhausted('b.example')).toBe(false);
  });
  it('bytes that do not fit are not passed on, and exhaust the budget; reported once', () => {
    const said: string[] = [];
    const budgets = new DestinationBudgets(LIMITS, { 'a.example': 90 }, ({ name }) => said.push(name));
    const [one, other] = [new Meter(budgets), new Meter(budgets)];
    expect([one.add('a.example'), other.add('a.example')]).toEqual([true, true]);
    expect(one.count(11)).toBe(false);
    expect(other.count(1)).toBe(false);
    expect(used(budgets)).toEqual([100, 0]);
    expect(said).toEqual(['a.example']);
  });
  it('bytes before the name count for it, and the first ones that do not fit stop the connection', () => {
    const budgets = new DestinationBudgets(LIMITS, {});
    const meter = new Meter(budgets);
    expect(meter.count(70)).toBe(true);
    expect(meter.add('a.example')).toBe(true);
    expect(used(budgets)).toEqual([70, 0]);
    const late = new Meter(budgets);
    expect(late.count(31)).toBe(true);
    expect(late.add('a.example')).toBe(false);
  });
  it('a connection that asks for several names counts for each', () => {
    const budgets = new DestinationBudgets(LIMITS, {});
    const meter = new Meter(budgets);
    expect(meter.add('c.example') && meter.count(10)).toBe(true);
    expect(meter.add('a.example') && meter.add('a.example')).toBe(true);
    expect(meter.count(5)).toBe(true);
    expect(used(budgets)).toEqual([15, 0]);
    expect(meter.add('x.b.example')).toBe(true);
    expect(used(budgets)).toEqual([15, 15]);
  });
  it('limits the names of a connection', () => {
    const meter = new Meter(new DestinationBudgets([], {}));
    const added = Array.from({ length: 100 }, (_, n) => meter.add(`n${n}.example`));
    expect(added.filter(Boolean)).toHaveLength(64);
  });
  it('new limits keep the usage of a name, for open connections too', () => {
    const budgets = new DestinationBudgets(LIMITS, {});
    const meter = new Meter(budgets);
    meter.add('a.example');
    meter.count(80);
    budgets.setLimits([{ name: 'a.example', bytesMax: 90 }]);
    expect(budgets.use()).toEqual([{ name: 'a.example', bytesMax: 90, bytesUsed: 80 }]);
    expect(meter.count(11)).toBe(false);
    budgets.setLimits([{ name: 'a.example', bytesMax: 200 }]);
    expect(meter.count(11)).toBe(true);
    budgets.setLimits([{ name: 'a.example', bytesMax: 20 }]);
    expect(budgets.use()).toEqual([{ name: 'a.example', bytesMax: 20, bytesUsed: 20 }]);
    budgets.setLimits([]);
    expect(meter.count(1e9)).toBe(true);
  });
  it('counts nothing for a host without a name, or without budgets', () => {
    const meter = new Meter(undefined);
    expect([meter.add('a.example'), meter.count(1e12)]).toEqual([true, true]);
    expect(new Meter(new DestinationBudgets(LIMITS, {})).add(undefined)).toBe(true);
  });
});
