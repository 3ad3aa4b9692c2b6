import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { silentLog } from '../../base/log.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import { type OpenTemplate, Pools } from './pools.ts';

/** @param stateSha256 digest of the file, different after each build */
const template = (stateSha256: string): OpenTemplate => ({
  key: 'key',
  spec: { cpus: 1, memoryMib: 128, diskMib: 16, warm: [] },
  warm: [],
  hasPython: false,
  source: {
    snapshot: { statePath: '/state', stateSha256, machine: 'fake' },
    copyMemory: async () => undefined,
    copyDisk: async () => undefined,
  },
});

const supervisor = (id: string): Supervisor =>
  ({
    spec: { id },
    ended: new Promise(() => undefined),
    isAlive: () => true,
    guest: () => ({ update: async () => undefined, expectUpdate: () => undefined }),
    stop: async () => undefined,
  }) as unknown as Supervisor;

function poolsOf(started: string[]): { readonly pools: Pools; readonly clock: FakeClock } {
  const clock = new FakeClock();
  const pools = new Pools({
    clock,
    log: silentLog,
    start: async ({ source }) => {
      started.push(source.snapshot.stateSha256);
      return supervisor(`member-${started.length}`);
    },
    turn: (_template, signal, work) => work(signal),
  });
  return { pools, clock };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

describe('Pools: a template that was rebuilt with the same key', () => {
  it.each<[string, (pools: Pools) => unknown]>([
    ['the pool is set again', (pools) => pools.set(template('second'), { min: 2, max: 2 }, null)],
    ['a request finds it', (pools) => pools.renew(template('second'))],
  ])('%s: new members start from the current files', async (_what, use) => {
    const started: string[] = [];
    const { pools, clock } = poolsOf(started);
    await pools.set(template('first'), { min: 1, max: 1 }, null);
    await settled();
    await use(pools);
    pools.claim('key', () => true);
    await settled();
    clock.advance(1_000);
    await settled();
    expect(started[0]).toBe('first');
    expect(new Set(started.slice(1))).toEqual(new Set(['second']));
    await pools.close();
  });
});
