import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EVENT, EVENT_BYTES, readEvent } from './events.ts';

describe('readEvent', () => {
  it('never throws, and returns only printable names and integers', () => {
    const bytes = fc.uint8Array({ minLength: 0, maxLength: 2 * EVENT_BYTES });
    fc.assert(
      fc.property(bytes, fc.integer({ min: 0, max: 6 }), (raw, kind) => {
        if (raw.length > EVENT.kind + 4) raw.fill(0, EVENT.kind, EVENT.kind + 4)[EVENT.kind] = kind;
        const event = readEvent(raw);
        expect(event !== undefined).toBe(raw.length >= EVENT_BYTES && kind >= 1 && kind <= 5);
        expect(event?.comm ?? '').toMatch(/^[ -~]{0,16}$/);
        if (event?.kind === 'exit') {
          expect((event.exitCode === null) !== (event.signal === null)).toBe(true);
        }
      }),
    );
  });
});
