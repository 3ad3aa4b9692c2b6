import { describe, expect, it } from 'vitest';
import { Listeners } from './listeners.ts';

describe('Listeners', () => {
  it('emit: a listener that throws does not stop the others', () => {
    const listeners = new Listeners<number>();
    const got: number[] = [];
    listeners.listen(() => {
      throw new Error('a bad listener');
    });
    listeners.listen((value) => got.push(value));
    listeners.emit(1);
    expect(got).toEqual([1]);
  });

  it('listen: the same function twice is two listeners, removed one at a time', () => {
    const listeners = new Listeners<number>();
    const got: number[] = [];
    const listener = (value: number): void => void got.push(value);
    const [stopFirst, stopSecond] = [listeners.listen(listener), listeners.listen(listener)];
    stopFirst();
    stopFirst();
    listeners.emit(1);
    expect([listeners.size, got]).toEqual([1, [1]]);
    stopSecond();
    listeners.emit(2);
    expect([listeners.size, got]).toEqual([0, [1]]);
  });

  it('emit: a listener removed meanwhile is not called; one added meanwhile gets the next value', () => {
    const listeners = new Listeners<number>();
    const got: string[] = [];
    listeners.listen((value) => {
      if (value > 1) return;
      stop();
      listeners.listen((later) => got.push(`added ${later}`));
    });
    const stop = listeners.listen((value) => got.push(`removed ${value}`));
    listeners.emit(1);
    listeners.emit(2);
    expect(got).toEqual(['added 2']);
  });
});
