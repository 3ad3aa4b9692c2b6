import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Measured, measuredIn, progressView } from './progress.ts';

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

const START = { kind: 'start', step: 'k', title: 'Build it' } as const;

function measuredOf(durations: Record<string, number>): Measured {
  const known = new Map(Object.entries(durations));
  return { get: (title) => known.get(title), set: (title, ms) => void known.set(title, ms) };
}
const TWO_MINUTES = measuredOf({ 'Build it': 120_000 });

describe('progressView', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('plain: prints the time of the last time at the start, and that of this one at the end', () => {
    const { stream, text } = screen(false);
    const view = progressView(stream, { now: () => 0, measured: measuredOf({}) });
    for (const durationMs of [65_000, 60_000]) {
      view.report(START);
      view.report({ kind: 'done', step: 'k', cached: false, durationMs });
    }
    view.report(START);
    view.report({ kind: 'failed', step: 'k', message: '' });
    view.report({ kind: 'done', step: 'other', cached: true, durationMs: 1 });
    view.close();
    expect(text()).toBe(
      '• Build it\n✓ Build it 1 min 05 s\n• Build it (1 min 05 s last time)\n✓ Build it 1 min 00 s\n' +
        '• Build it (1 min 00 s last time)\n✗ Build it\n',
    );
  });

  it('plain: tells no time that is left of what was neither counted nor done before', () => {
    let now = 0;
    const { stream, text } = screen(false);
    const view = progressView(stream, { now: () => now });
    view.report(START);
    view.report({ kind: 'update', step: 'k', detail: 'compile' });
    now = 15_000;
    vi.advanceTimersByTime(15_000);
    view.close();
    expect(text()).toBe('• Build it\n  … Build it after 15.0 s: compile\n');
  });

  it('plain: without a count, tells the time that is left from the last time, and then none', () => {
    let now = 0;
    const { stream, text } = screen(false);
    const view = progressView(stream, { now: () => now, measured: TWO_MINUTES });
    view.report(START);
    for (const seconds of [30, 150]) {
      now = seconds * 1000;
      vi.advanceTimersByTime(15_000);
    }
    view.close();
    expect(text()).toContain('… Build it 25 % after 30.0 s, about 1 min 30 s left\n');
    expect(text()).toContain('… Build it 95 % after 2 min 30 s\n');
  });

  it('plain: reports a long step regularly', () => {
    let now = 0;
    const { stream, text } = screen(false);
    const view = progressView(stream, { now: () => now });
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
    const view = progressView(stream, { now: () => now });
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

  it('prints failed steps, and no cached ones', () => {
    const { stream, text } = screen(true);
    const view = progressView(stream, { now: () => 0 });
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
    const view = progressView(stream, { now: () => now });
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

  it('terminal: without a count, draws time against that of the last time, never quite full', () => {
    let now = 0;
    const { stream, text } = screen(true);
    const view = progressView(stream, { now: () => now, measured: TWO_MINUTES });
    view.report(START);
    now = 900_000;
    view.report({ kind: 'update', step: 'k', detail: 'still at it' });
    view.close();
    expect(text()).toContain('95 %');
    expect(text()).not.toContain('100 %');
  });
});

describe('measuredIn', () => {
  let dir = '';
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'nv-measured-'));
  });
  afterEach(() => rm(dir, { recursive: true }));

  it('keeps the last duration of a step for later processes, of the 64 latest steps', () => {
    const cacheDir = join(dir, 'cache');
    const measured = measuredIn(cacheDir);
    expect(measured.get('a')).toBeUndefined();
    measured.set('a', 1000.4);
    for (let n = 0; n < 63; n++) measured.set(`step ${n}`, n);
    measured.set('a', 2000);
    measured.set('x'.repeat(201), 1);
    expect(measuredIn(cacheDir).get('a')).toBe(2000);
    expect(measuredIn(cacheDir).get('step 0')).toBe(1);
    measured.set('one more', 5);
    expect(measuredIn(cacheDir).get('step 0')).toBeUndefined();
    expect(measuredIn(cacheDir).get('x'.repeat(201))).toBeUndefined();
  });

  it.each(['', '[', 'null', '[1]', '{"a":"b","c":-1,"d":1e99}', `{"a":1,"b":"${'x'.repeat(70_000)}"}`])(
    'a damaged file %j tells nothing, and is written anew',
    async (text) => {
      await writeFile(join(dir, 'durations.json'), text);
      const measured = measuredIn(dir);
      for (const title of ['a', 'c', 'd']) expect(measured.get(title)).toBeUndefined();
      measured.set('a', 7);
      expect(measured.get('a')).toBe(7);
    },
  );

  it('a directory that can not be written is no failure', async () => {
    await writeFile(join(dir, 'file'), '');
    const measured = measuredIn(join(dir, 'file'));
    measured.set('a', 1);
    expect(measured.get('a')).toBeUndefined();
  });
});
