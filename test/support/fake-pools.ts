/** The pools of the control plane in memory: numbers without members. */
import type { PoolInfo, Pools } from '../../src/sandbox/contract/pools.ts';
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import type { FakeSandboxes } from './fake-sandboxes.ts';

export function fakePools({ before }: FakeSandboxes): Pools {
  const pools = new Map<string, PoolInfo>();
  return {
    pools: async () => {
      before('pools');
      return [...pools.values()];
    },
    setPool: async (limits, { image: _unknown, template: name = null, ...given } = {}) => {
      before('setPool');
      const entries = Object.entries(given).filter(([, value]) => value !== undefined);
      const spec = { ...DEFAULT_TEMPLATE, ...Object.fromEntries(entries) };
      const template = name ?? JSON.stringify(spec);
      const counts = { target: limits.min, ready: limits.min, starting: 0, hits: 0, misses: 0, discarded: 0 };
      const pool: PoolInfo = { template, name, spec, ...counts, ...limits };
      pools.set(template, pool);
      return pool;
    },
  };
}
