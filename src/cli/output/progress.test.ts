import { Writable } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { progressView } from './progress.ts';

function screen(isTTY: boolean) {
  let text = '';
  const stream = new Writable({
    write(chunk, _encoding, done) {
      text += chunk;
      done();
    },
  }) as unknown as NodeJS.WriteStream;
  stream.isTTY = isTTY;
  stream.columns = 100;
  return { stream, text: () => stripVTControlCharacters(text) };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const START = { kind: 'start', step: 'k', title: 'Build it', estimateMs: 120_000 } as const;

describe('progressView', () => {
  it('plain: prints the estimate at the start and the time at the end', () => {
    const { stream, text } = screen(false);
    const view = progressView(stream, () => 0);
    view.report(START);
    view.report({ kind: 'done', step: 'k', cached: false, durationMs: 65_000 });
    view.close();
    expect(text()).toBe('• Build it (about 2 min 00 s)\n✓ Build it 1 min 05 s\n');
  });

  it('plain: reports a long step regularly', () => {
    let now = 0;
    const { stream, text } = screen(false);
    const view = progressView(stream, () => now);
    view.report(START);
    view.report({ kind: 'update', step: 'k', fraction: 0.25 });
    now = 15_000;
    vi.advanceTimersByTime(15_000);
    view.close();
    expect(text()).toContain('… Build it 25 % after 15.0 s, about 45.0 s left');
  });

  it('plain: neither the share that is done goes back nor the time that is left grows', () => {
    let now = 0;
    const { stream, text } = screen(false);
    const view = progressView(stream, () => now);
    const lineAt = (seconds: number): string | undefined => {
      now = seconds * 1000;
      vi.advanceTimersByTime(15_000);
      return text().trim().split('\n').at(-1)?.trim();
    };
    view.report(START);
    view.report({ kind: 'update', step: 'k', fraction: 0.5 });
    expect(lineAt(15)).toBe('… Build it 50 % after 15.0 s, about 15.0 s left');
    view.report({ kind: 'update', step: 'k', fraction: 0.3 });
    expect(lineAt(25)).toBe('… Build it 50 % after 25.0 s, about 5.0 s left');
    expect(lineAt(40)).toBe('… Build it 50 % after 40.0 s');
    view.close();
  });

  it('plain: estimates a whole by the longest of its parts', () => {
    let now = 0;
    const { stream, text } = screen(false);
    const view = progressView(stream, () => now);
    view.report({ kind: 'start', step: 'all', title: 'All', estimateMs: 400_000, isWhole: true });
    view.report(START);
    view.report({ kind: 'start', step: 'short', title: 'Short', estimateMs: 20_000 });
    view.report({ kind: 'update', step: 'all', fraction: 0.5 });
    now = 15_000;
    vi.advanceTimersByTime(15_000);
    expect(text()).toContain('… All 50 % after 15.0 s, about 1 min 45 s left');
    expect(text()).toContain('… Short 75 % after 15.0 s, about 5.0 s left');
    for (const step of ['k', 'short']) view.report({ kind: 'done', step, cached: false, durationMs: 20_000 });
    now = 30_000;
    vi.advanceTimersByTime(15_000);
    view.close();
    expect(text()).toContain('… All 50 % after 30.0 s, about 30.0 s left');
  });

  it('prints failed steps, and no cached ones', () => {
    const { stream, text } = screen(true);
    const view = progressView(stream, () => 0);
    view.report({ kind: 'done', step: 'unknown', cached: true, durationMs: 1 });
    view.report(START);
    view.report({ kind: 'failed', step: 'k', message: 'no space left\nits console' });
    view.close();
    expect(text()).toContain('✗ Build it: no space left\n');
    expect(text()).not.toContain('its console');
    expect(text()).not.toContain('✓');
  });

  it('terminal: draws a bar with the remaining time, no wider than the screen', () => {
    let now = 0;
    const { stream, text } = screen(true);
    const view = progressView(stream, () => now);
    view.report(START);
    now = 30_000;
    view.report({ kind: 'update', step: 'k', fraction: 0.5, detail: 'x'.repeat(200) });
    expect(text()).toContain('██████████░░░░░░░░░░ 50 % 30.0 s, about 30.0 s left');
    const widest = Math.max(
      ...text()
        .split('\n')
        .map((line) => line.length),
    );
    expect(widest).toBeLessThanOrEqual(100);
    view.close();
  });

  it('terminal: without a count, draws time against the estimate, never quite full', () => {
    let now = 0;
    const { stream, text } = screen(true);
    const view = progressView(stream, () => now);
    view.report(START);
    now = 900_000;
    view.report({ kind: 'update', step: 'k', detail: 'still at it' });
    view.close();
    expect(text()).toContain('95 %');
    expect(text()).not.toContain('100 %');
  });
});
