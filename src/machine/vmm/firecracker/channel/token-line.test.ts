import { describe, expect, it } from 'vitest';
import { FakeClock } from '../../../../base/clock.ts';
import { TokenLine } from './token-line.ts';

/** Each item is a sender and the number of turns of 10 tokens that it wants. */
function lineOf(limit: ConstructorParameters<typeof TokenLine>[1]) {
  const clock = new FakeClock();
  const passed: string[] = [];
  const left = new Map<string, number>();
  const pass = (who: string): number => {
    passed.push(who);
    const turns = (left.get(who) ?? 1) - 1;
    left.set(who, turns);
    if (turns > 0) line.add(who);
    return 10;
  };
  let isServing = false;
  const serve = (): void => {
    if (isServing) return;
    isServing = true;
    line.serve(Number.POSITIVE_INFINITY, 1);
    isServing = false;
  };
  const line: TokenLine<string> = new TokenLine(clock, limit, pass, serve);
  const want = (who: string, turns: number): void => {
    left.set(who, turns);
    line.add(who);
  };
  return { clock, line, passed, want };
}

describe('TokenLine', () => {
  it('add: without a limit, serves all at once without a wait', () => {
    const { clock, line, passed, want } = lineOf(undefined);
    want('a', 3);
    clock.advance(1000);
    expect(passed).toEqual(['a', 'a', 'a']);
    expect(line.throttledMs()).toBe(0);
  });
  it('add: serves in turns at the rate of the limit, and counts the wait', () => {
    const { clock, line, passed, want } = lineOf({ size: 10, refillPerSecond: 100 });
    want('a', 3);
    want('b', 3);
    expect(passed).toEqual(['a']);
    clock.advance(1000);
    expect(passed.join('')).toBe('aababb');
    // Five more turns of 10 tokens, 100 tokens a second; each opens with the first token.
    expect(line.throttledMs()).toBeGreaterThan(400);
    expect(line.throttledMs()).toBeLessThan(560);
  });
  it('setLimit: applies to waiting items', () => {
    const { line, passed, want } = lineOf({ size: 1, refillPerSecond: 0.001 });
    want('a', 1);
    want('b', 2);
    expect(passed).toEqual(['a']);
    line.setLimit(undefined);
    expect(passed).toEqual(['a', 'b', 'b']);
  });
  it('forget: does not serve a removed waiter, and counts the wait to the next token', () => {
    const { clock, line, passed, want } = lineOf({ size: 10, refillPerSecond: 10 });
    want('a', 2);
    line.forget('a');
    clock.advance(60_000);
    expect(passed).toEqual(['a']);
    expect(line.throttledMs()).toBeLessThan(2_000);
  });
  it('serve: stops after its share, and the next call continues there', () => {
    const served: string[] = [];
    const pass = (who: string): number => {
      served.push(who);
      line.add(who);
      return who === 'big' ? 10 : 0;
    };
    const line: TokenLine<string> = new TokenLine(new FakeClock(), undefined, pass, () => undefined);
    for (const who of ['big', 'small', 'idle']) line.add(who);
    expect(line.serve(12, 2)).toBe(true);
    expect(served).toEqual(['big', 'small']);
    expect(line.serve(5, 2)).toBe(true);
    expect(served.slice(2)).toEqual(['idle', 'big']);
  });
  it('close: serves no waiter, and schedules nothing', () => {
    const { clock, line, passed, want } = lineOf({ size: 10, refillPerSecond: 10 });
    want('a', 5);
    line.close();
    clock.advance(60_000);
    expect(passed).toEqual(['a']);
  });
});
