/** Turns of tenants in the start queue. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { settle } from '../../../test/support/fake-members.ts';
import { FakeClock } from '../../base/clock.ts';
import { StartQueue } from './start-queue.ts';

it('a burst of one tenant delays another’s single start by one turn at most', async () => {
  const burst = fc.record({
    size: fc.integer({ min: 1, max: 200 }),
    /** Number of the burst's starts that have ended when the single one is requested. */
    ended: fc.nat({ max: 200 }),
    concurrency: fc.integer({ min: 1, max: 8 }),
  });
  await fc.assert(
    fc.asyncProperty(burst, async ({ size, ended, concurrency }) => {
      const memory = { totalMib: 1000, availableMib: () => 1000, reserveMib: 0 };
      const queue = new StartQueue({ concurrency, clock: new FakeClock(), ...memory });
      const begun: string[] = [];
      const running: (() => void)[] = [];
      const ask = (tenant: string): void => {
        void queue.run({ tenant, memoryMib: 1, queueTimeoutMs: null }, async () => {
          begun.push(tenant);
          await new Promise<void>((resolve) => running.push(resolve));
        });
      };
      const endOne = async (): Promise<void> => {
        running.shift()?.();
        await settle();
      };
      for (let n = 0; n < size; n += 1) ask('many');
      for (let n = 0; n < Math.min(ended, size); n += 1) await endOne();
      const before = begun.length;
      ask('one');
      while (!begun.includes('one')) await endOne();
      expect(begun.indexOf('one') - before).toBeLessThanOrEqual(1);
      while (running.length > 0) await endOne();
      expect(begun).toHaveLength(size + 1);
    }),
    { numRuns: 50 },
  );
});
