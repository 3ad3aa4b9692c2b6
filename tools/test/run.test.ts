import { describe, expect, it } from 'vitest';
import { guestOutcome, type Layer, type LayerContext, onceMoreIfHostDied } from './layers.ts';
import { planOf, runLayers } from './run.ts';
import { type Outcome, UnsteadyBudget } from './verdict.ts';

const names = (...words: string[]): string[] => planOf(words).layers.map(({ name }) => name);

describe('planOf', () => {
  it('without words runs every layer, the gate first', () => {
    expect(names()).toEqual(['check', 'unit', 'guest', 'component', 'vm', 'e2e', 'nested']);
    expect(names('nested')).toEqual(['nested']);
    expect(names('test/nested/qemu.nested.test.ts')).toEqual(['nested']);
  });
  it('keeps the order of the layers, whatever the order of the words', () => {
    expect(names('vm', 'check')).toEqual(['check', 'vm']);
  });
  it('takes the layer of a path from the path, beside the layers that are named', () => {
    expect(names('src/net', 'test/component/jail.test.ts')).toEqual(['unit', 'component']);
    expect(names('guest', 'src/net')).toEqual(['unit', 'guest']);
    expect(planOf(['unit', './src/net']).filters).toEqual(['src/net']);
  });
  it('refuses a layer that does not exist, and names those that do', () => {
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

const NOTHING: Outcome = {
  passed: 1,
  failed: 0,
  skipped: 0,
  failures: [],
  unsteady: [],
  skips: [],
  files: [],
};

describe('onceMoreIfHostDied', () => {
  const failed = (message: string): Outcome => ({
    ...NOTHING,
    failed: 1,
    failures: [{ file: 'f', test: 't', message }],
  });
  async function outcomeOf(...outcomes: Outcome[]) {
    let text = '';
    const write = (more: string): void => {
      text += more;
    };
    const left = [...outcomes];
    const run = () => Promise.resolve(left.shift() ?? NOTHING);
    return { outcome: await onceMoreIfHostDied({ write }, run), left: left.length, text };
  }

  it('a failure of the product is never run again', async () => {
    const first = failed('AssertionError: expected 1 to be 2');
    expect(await outcomeOf(first, NOTHING)).toEqual({ outcome: first, left: 1, text: '' });
  });
  it('the death of the host is told, and its file run once more, and no more', async () => {
    const died = failed('some\nNestedHostError: QEMU ended with 1\n  at x');
    const seen = await outcomeOf(died, NOTHING);
    expect(seen).toMatchObject({ outcome: NOTHING, left: 0 });
    expect(seen.text).toContain('NestedHostError: QEMU ended with 1');
    expect(await outcomeOf(died, died, NOTHING)).toMatchObject({ outcome: died, left: 1 });
  });
});

describe('runLayers', () => {
  let text = '';
  const context = (): LayerContext => {
    text = '';
    const write = (more: string): void => {
      text += more;
    };
    const shell = { signal: new AbortController().signal, env: {}, isTerminal: false, write };
    return { shell, seed: 1, filters: [], budget: new UnsteadyBudget() };
  };
  const layer = (
    name: string,
    stage: Layer['stage'],
    run: Layer['run'] = async () => NOTHING,
  ): Layer => ({ name, stage, run });
  const red = async (): Promise<Outcome> => ({ ...NOTHING, failed: 1 });

  it('a red gate stops the run before anything else, and says what did not run', async () => {
    const layers = [layer('check', 'gate', red), layer('unit', 'gate'), layer('vm', 'machine')];
    const outcomes = await runLayers(layers, context(), async () => expect.fail('prepared'));
    expect(outcomes).toHaveLength(1);
    expect(text).toContain('\nnot run, since the gate is red: unit, vm\n');
  });

  it('a green gate is followed by the machine’s layers, which are prepared once', async () => {
    let prepared = 0;
    const layers = [layer('check', 'gate'), layer('vm', 'machine', red), layer('e2e', 'machine')];
    const outcomes = await runLayers(layers, context(), async () => {
      prepared += 1;
    });
    expect(outcomes.map(({ failed }) => failed)).toEqual([0, 1, 0]);
    expect(prepared).toBe(1);
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
    const outcomes = await runLayers([component, vm], context(), async () => undefined);
    expect(outcomes).toHaveLength(2);
    expect(text).toContain('component | from a component\n');
    expect(text).toContain('vm | from a VM\n');
  });

  it('runs two layers at a time, the longest first, the next as soon as one has ended', async () => {
    const began: string[] = [];
    const gates = ['component', 'vm', 'e2e', 'nested'].map((name) => ({
      name,
      end: Promise.withResolvers<Outcome>(),
    }));
    const layers = gates.map(({ name, end }) =>
      layer(name, 'machine', async () => {
        began.push(name);
        return await end.promise;
      }),
    );
    const running = runLayers(layers, context(), async () => undefined);
    await expect.poll(() => began).toEqual(['component', 'nested']);
    gates[0]?.end.resolve(NOTHING);
    await expect.poll(() => began).toEqual(['component', 'nested', 'vm']);
    for (const { end } of gates) end.resolve(NOTHING);
    expect(await running).toHaveLength(4);
    expect(began).toEqual(['component', 'nested', 'vm', 'e2e']);
  });
});
