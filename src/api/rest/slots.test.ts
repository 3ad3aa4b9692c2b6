import { describe, expect, it } from 'vitest';
import { Slots } from './slots.ts';

const busy = (message: string) => expect.objectContaining({ code: 'busy', message });

describe('Slots', () => {
  it('take: refuses above the limit, until a slot is released', () => {
    const slots = new Slots('programs', 2);
    slots.take();
    const giveBack = slots.take();
    expect(() => slots.take()).toThrow(busy('2 programs are in progress, the maximum'));
    giveBack();
    giveBack();
    slots.take();
    expect(() => slots.take()).toThrow();
  });

  it('take: refuses above the limit of a sandbox, and still serves another', () => {
    const slots = new Slots('listings', 3, 2);
    slots.take('a');
    const giveBack = slots.take('a');
    expect(() => slots.take('a')).toThrow(busy('sandbox a: 2 listings are in progress, the maximum'));
    slots.take('b');
    expect(() => slots.take('b')).toThrow(busy('3 listings are in progress, the maximum'));
    giveBack();
    slots.take('a');
  });
});
