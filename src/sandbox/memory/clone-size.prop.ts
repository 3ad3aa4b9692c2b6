import fc from 'fast-check';
import { expect, it } from 'vitest';
import { expectedOf, pendingOf } from './clone-size.ts';

it('all live and admitted clones fit, if none grows beyond its estimate', () => {
  const one = fc.record({ ownMib: fc.integer({ min: 20, max: 512 }), sizeMib: fc.constant(512) });
  fc.assert(
    fc.property(fc.array(one, { maxLength: 300 }), fc.nat(20_000), (live, availableMib) => {
      const expectedMib = Math.min(512, Math.ceil(expectedOf(live)));
      const roomMib = availableMib - pendingOf(live, expectedMib);
      const more = Math.max(0, Math.floor(roomMib / expectedMib));
      const growthMib = live.reduce((sum, { ownMib }) => sum + Math.max(0, expectedMib - ownMib), 0);
      if (more > 0) expect(growthMib + more * expectedMib).toBeLessThanOrEqual(availableMib);
    }),
  );
});
