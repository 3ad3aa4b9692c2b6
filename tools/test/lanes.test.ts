import { describe, expect, it } from 'vitest';
import { LANE_VARIABLE } from '../../test/support/lane.ts';
import { groupsOf, sideBySide } from './lanes.ts';
import { type Layer, type LayerContext, NOTHING } from './layer.ts';
import { UnsteadyBudget } from './verdict.ts';

const MINUTE = 60_000;

describe('groupsOf', () => {
  it('groups take about the same time, about four minutes, and have each file once', () => {
    const minutes = { a: 5, b: 1, c: 3, d: 2, e: 4, f: 1 };
    const times = Object.fromEntries(Object.entries(minutes).map(([file, m]) => [file, [m * MINUTE]]));
    const groups = groupsOf(Object.keys(minutes), times);
    expect(groups.flat().toSorted()).toEqual(Object.keys(minutes));
    const sums = groups.map((files) => files.reduce((sum, file) => sum + minutes[file as keyof typeof minutes], 0));
    expect(sums.toSorted()).toEqual([3, 4, 4, 5]);
  });
  it('without earlier runs, files count the same; few files are one group', () => {
    expect(groupsOf(['a', 'b'], {})).toEqual([['a', 'b']]);
    expect(groupsOf([], {})).toEqual([]);
  });
});

describe('sideBySide', () => {
  it('all lanes run files of a layer, each file once, in folders of their own; its result is one', async () => {
    const files = Array.from({ length: 40 }, (_, i) => `test/vm/${i}.vm.test.ts`);
    const ran: { readonly lane: string | undefined; readonly files: readonly string[] }[] = [];
    const all = Promise.withResolvers<void>();
    const vm: Layer = {
      name: 'vm',
      stage: 'machine',
      files: () => files,
      run: async ({ shell, filters }) => {
        ran.push({ lane: shell.env[LANE_VARIABLE], files: filters });
        if (new Set(ran.map(({ lane }) => lane)).size === 3) all.resolve();
        await all.promise;
        return { ...NOTHING, passed: filters.length };
      },
    };
    const component: Layer = { name: 'component', stage: 'machine', isWide: true, run: async () => NOTHING };
    const shell = { signal: new AbortController().signal, env: {}, isTerminal: false, write: () => undefined };
    const context: LayerContext = {
      ...{ shell, seed: 1, cacheDir: '/nowhere', isFull: false },
      ...{ filters: [], times: {}, budget: new UnsteadyBudget() },
    };
    const results = await sideBySide([vm, component], context, Promise.resolve());
    expect(new Set(ran.map(({ lane }) => lane))).toEqual(new Set(['1', '2', '3']));
    expect(ran.flatMap((unit) => unit.files).toSorted()).toEqual(files.toSorted());
    expect(results.map(({ layer, outcome }) => [layer, outcome.passed])).toEqual([
      ['component', 0],
      ['vm', 40],
    ]);
  });
});
