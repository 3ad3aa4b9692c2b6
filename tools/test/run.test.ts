import { describe, expect, it } from 'vitest';
import type { Layer, LayerContext } from './layer.ts';
import { guestOutcome } from './layers.ts';
import { planOf, runLayers } from './run.ts';
import { type Outcome, UnsteadyBudget } from './verdict.ts';

const names = (...words: string[]): string[] => planOf(words).layers.map(({ name }) => name);

describe('planOf', () => {
  it('without words runs the required layers, the gate first; `all` adds the rest', () => {
    const usual = ['check', 'unit', 'guest', 'inprocess', 'component', 'smoke'];
    expect(names()).toEqual(usual);
    expect(names('all')).toEqual([...usual, 'delays', 'proofs', 'clients', 'vm', 'e2e', 'nested']);
    expect(names('nested')).toEqual(['nested']);
    expect(names('test/nested/qemu.nested.test.ts')).toEqual(['nested']);
  });
  it('keeps the order of the layers, for any order of the words', () => {
    expect(names('vm', 'check')).toEqual(['check', 'vm']);
  });
  it('derives the layer of a path from the path, in addition to named layers', () => {
    expect(names('src/egress/net', 'test/component/jail.test.ts')).toEqual(['unit', 'component']);
    expect(names('guest', 'src/egress/net')).toEqual(['unit', 'guest']);
    expect(planOf(['unit', './src/egress/net']).filters).toEqual(['src/egress/net']);
  });
  it('refuses an unknown layer, and lists the known ones', () => {
    expect(() => planOf(['unti'])).toThrow('no layer "unti"');
  });
});

describe('guestOutcome', () => {
  it('reads counts, names of failures and reasons of skips', () => {
    const output = [
      'test_a (test_x.A.test_a) ... ok',
      "test_b (test_x.A.test_b) ... skipped 'needs root'",
      'test_c (test_x.A.test_c) ... FAIL',
      'FAIL: test_c (test_x.A.test_c)',
      'Ran 3 tests in 0.3s',
    ].join('\n');
    expect(guestOutcome(output, 1)).toMatchObject({
      passed: 1,
      failed: 1,
      skipped: 1,
      failures: [{ test: 'test_c (test_x.A.test_c)' }],
      skips: [{ test: 'test_b (test_x.A.test_b)', reason: 'needs root' }],
    });
  });
  it('no test at all, or a status without a failure, is a failure', () => {
    expect(guestOutcome('Ran 0 tests in 0s', 0)).toMatchObject({ passed: 0, failed: 1 });
    expect(guestOutcome('Ran 3 tests in 0s', 1)).toMatchObject({ failed: 1 });
  });
});

const NOTHING: Outcome = { passed: 1, failed: 0, skipped: 0, failures: [], unsteady: [], skips: [], files: [] };

describe('runLayers', () => {
  let text = '';
  const context = (): LayerContext => {
    text = '';
    const write = (more: string): void => {
      text += more;
    };
    const shell = { signal: new AbortController().signal, env: {}, isTerminal: false, write };
    return {
      shell,
      seed: 1,
      cacheDir: '/nowhere',
      isFull: false,
      filters: [],
      times: {},
      budget: new UnsteadyBudget(),
    };
  };
  const layer = (name: string, stage: Layer['stage'], run: Layer['run'] = async () => NOTHING): Layer => ({
    name,
    stage,
    run,
    isWide: ['inprocess', 'component'].includes(name),
  });
  const red = async (): Promise<Outcome> => ({ ...NOTHING, failed: 1 });

  const machine = (name: string, run?: Layer['run']): Layer => ({ ...layer(name, 'machine', run), needsMachine: true });

  it('a red gate stops the run and the set-up beside it, and reports what did not run', async () => {
    const layers = [layer('check', 'gate', red), layer('unit', 'gate'), machine('vm')];
    let isStopped = false;
    const results = await runLayers(layers, context(), async (signal) => {
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      isStopped = true;
      signal.throwIfAborted();
    });
    expect(results).toHaveLength(1);
    expect(isStopped).toBe(true);
    expect(text).toContain('\nnot run, since the gate is red: unit, vm\n');
  });

  it('prepares the machine once, beside the gate; only layers that need it wait for it', async () => {
    const order: string[] = [];
    const prepared = Promise.withResolvers<void>();
    const note = (name: string) => async (): Promise<Outcome> => {
      order.push(name);
      if (name === 'inprocess') prepared.resolve();
      return name === 'vm' ? await red() : NOTHING;
    };
    const layers = [
      layer('check', 'gate', note('check')),
      layer('inprocess', 'machine', note('inprocess')),
      machine('vm', note('vm')),
      machine('e2e', note('e2e')),
    ];
    const results = await runLayers(layers, context(), async () => {
      order.push('preparation');
      await prepared.promise;
    });
    expect(order).toEqual(['preparation', 'check', 'inprocess', 'vm', 'e2e']);
    expect(results.map(({ outcome }) => outcome.failed).toSorted()).toEqual([0, 0, 0, 1]);
  });

  it('a preparation that fails fails the run', async () => {
    const layers = [layer('check', 'gate'), machine('vm')];
    const running = runLayers(layers, context(), async () => {
      throw new Error('no space');
    });
    await expect(running).rejects.toThrow('no space');
  });

  it('prepares nothing if no layer needs it', async () => {
    const layers = [layer('check', 'gate'), layer('inprocess', 'machine')];
    const results = await runLayers(layers, context(), async () => expect.fail('prepared'));
    expect(results.map((result) => result.layer)).toEqual(['check', 'inprocess']);
  });

  it('components run beside VMs, with the lines of each labeled', async () => {
    const both = Promise.withResolvers<void>();
    const component = layer('component', 'machine', async ({ shell }) => {
      await both.promise;
      shell.write('from a component\n');
      return NOTHING;
    });
    const vm = layer('vm', 'machine', async ({ shell }) => {
      shell.write('from a VM\n');
      both.resolve();
      return NOTHING;
    });
    const results = await runLayers([component, vm], context(), async () => undefined);
    expect(results).toHaveLength(2);
    expect(text).toContain('component | from a component\n');
    expect(text).toContain('vm | from a VM\n');
  });

  it('runs three lanes: layers that use all processors one after another, VMs beside them', async () => {
    const began: string[] = [];
    const gates = ['inprocess', 'component', 'smoke', 'vm', 'e2e', 'nested'].map((name) => ({
      name,
      end: Promise.withResolvers<Outcome>(),
    }));
    const layers = gates.map(({ name, end }) =>
      layer(name, 'machine', async () => {
        began.push(name);
        return await end.promise;
      }),
    );
    const ends = (name: string): void => gates.find((gate) => gate.name === name)?.end.resolve(NOTHING);
    const running = runLayers(layers, context(), async () => undefined);
    await expect.poll(() => began.toSorted()).toEqual(['inprocess', 'nested', 'smoke']);
    ends('nested');
    await expect.poll(() => began.slice(3)).toEqual(['vm']);
    ends('inprocess');
    await expect.poll(() => began.slice(3)).toEqual(['vm', 'component']);
    // The first lane is empty, so it helps the others.
    ends('component');
    await expect.poll(() => began.at(-1)).toBe('e2e');
    for (const { end } of gates) end.resolve(NOTHING);
    expect(await running).toHaveLength(6);
  });
});
