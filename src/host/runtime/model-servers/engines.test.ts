import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeClock } from '../../../base/clock.ts';
import { readConfig } from '../../../base/config.ts';
import { silentLog } from '../../../base/log.ts';
import { MIB } from '../../../base/units.ts';
import { EngineServer } from './engine-server.ts';
import { Engines, type PooledEngine } from './engines.ts';

const ENGINE_MIB = 1_000;
const HOST_MIB = 3_000;

let dir: string;
let model: string;
let clock: FakeClock;
let fakes: FakeEngine[];
let engines: Engines;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-engines-'));
  model = join(dir, 'model.gguf');
  writeFileSync(model, '');
  // With its overhead, 1,412 MiB.
  truncateSync(model, 750 * MIB);
  clock = new FakeClock();
  fakes = [];
  const available = () => HOST_MIB - ENGINE_MIB * fakes.filter(({ isStarted }) => isStarted).length;
  engines = new Engines(silentLog, clock, available);
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

class FakeEngine implements PooledEngine {
  isStarted = false;
  isBusy = false;
  askedAtMs = Number.NEGATIVE_INFINITY;
  isIdle(): Promise<boolean> {
    return Promise.resolve(!this.isBusy);
  }
  stop(): Promise<void> {
    this.isStarted = false;
    return Promise.resolve();
  }
  ask(): void {
    clock.advance(20_000);
    this.isStarted = true;
    this.askedAtMs = clock.now();
  }
}

function add(name: string): FakeEngine {
  const engine = new FakeEngine();
  fakes.push(engine);
  engines.add(name, engine);
  return engine;
}

const started = (): boolean[] => fakes.map(({ isStarted }) => isStarted);

describe('Engines', () => {
  it('ends the least recently used engines, and no more than the new one needs', async () => {
    const [a, b, c] = [add('a'), add('b'), add('c')];
    a.ask();
    (await engines.makeRoom('b', model))();
    expect(started()).toEqual([true, false, false]);
    b.ask();
    a.ask();
    clock.advance(20_000);
    (await engines.makeRoom('c', model))();
    expect(started()).toEqual([true, false, false]);
    c.ask();
    clock.advance(20_000);
    (await engines.makeRoom('b', model))();
    expect(started()).toEqual([false, false, true]);
  });

  it('an engine that is busy, or was asked just now, stays', async () => {
    const [a, b] = [add('a'), add('b')];
    add('c');
    a.ask();
    a.isBusy = true;
    b.ask();
    (await engines.makeRoom('c', model))();
    expect(started()).toEqual([true, true, false]);
    clock.advance(10_000);
    (await engines.makeRoom('c', model))();
    expect(started()).toEqual([true, false, false]);
  });

  it('a missing model needs little memory; the engine reports that it is missing', async () => {
    add('a').ask();
    await engines.makeRoom('b', join(dir, 'none'));
    expect(started()).toEqual([true]);
  });

  it('an engine that was removed from the file ends when it is idle', async () => {
    const a = add('a');
    a.ask();
    a.isBusy = true;
    engines.retire('a');
    engines.retire('a');
    engines.retire('unknown');
    const look = async (): Promise<boolean> => {
      clock.advance(2_000);
      await new Promise(setImmediate);
      return a.isStarted;
    };
    for (let n = 0; n < 10; n += 1) expect(await look()).toBe(true);
    a.isBusy = false;
    expect(await look()).toBe(false);
  });

  it('memory promised to one start is not given to another until it is taken', async () => {
    const [a, b] = [add('a'), add('b')];
    a.ask();
    b.ask();
    clock.advance(20_000);
    // 1,000 MiB are left, and each engine needs 1,412.
    const taken = await engines.makeRoom('c', model);
    expect(started()).toEqual([false, true]);
    await engines.makeRoom('d', model);
    expect(started()).toEqual([false, false]);
    a.ask();
    taken();
    clock.advance(20_000);
    // 2,000 MiB are left: enough for one more start besides d's, but for the promise.
    await engines.makeRoom('e', model);
    expect(started()).toEqual([false, false]);
  });

  it('a retired engine makes room, too', async () => {
    const [a] = [add('a'), add('b').ask()];
    a.ask();
    engines.retire('a');
    clock.advance(11_000);
    a.askedAtMs = Number.NEGATIVE_INFINITY;
    await engines.makeRoom('c', model);
    expect(started()).toEqual([false, true]);
  });

  it('starts that wait for room do not wait for each other', async () => {
    const old = add('old');
    old.ask();
    clock.advance(20_000);
    const gone = Promise.withResolvers<void>();
    old.stop = () => gone.promise;
    const server = (name: string): EngineServer => {
      const one = new EngineServer({
        config: readConfig({}),
        // A path below a file, so that each start fails.
        runDir: join(model, 'run'),
        cacheDir: dir,
        log: silentLog,
        name,
        modelId: name,
        modelPath: () => model,
        makeRoom: (path) => engines.makeRoom(name, path),
      });
      engines.add(name, one);
      return one;
    };
    truncateSync(model, 3_000 * MIB);
    const starts = [server('a'), server('b')].map((one) => one.target());
    await new Promise(setImmediate);
    clock.advance(20_000);
    gone.resolve();
    expect((await Promise.allSettled(starts)).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    await engines.close();
  });

  it('close ends all engines, including retired ones', async () => {
    const [a, b] = [add('a'), add('b')];
    a.ask();
    b.ask();
    engines.retire('a');
    await engines.close();
    expect(started()).toEqual([false, false]);
  });
});
