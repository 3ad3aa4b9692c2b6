import { describe, expect, it } from 'vitest';
import { Totals } from './totals.ts';

describe('Totals', () => {
  it('note: adds the increase of each source; a source that restarts at zero loses nothing', () => {
    const totals = new Totals();
    const [one, two] = [{}, {}];
    totals.note(one, { bytes: 10 });
    totals.note(two, { bytes: 5, packets: 1 });
    totals.note(one, { bytes: 12 });
    expect(totals.get('bytes')).toBe(17);
    totals.note(one, { bytes: 3 });
    expect(totals.get('bytes')).toBe(20);
    totals.note(one, { bytes: Number.NaN });
    expect(totals.get('bytes')).toBe(20);
    expect(totals.names()).toEqual(['bytes', 'packets']);
  });
});
