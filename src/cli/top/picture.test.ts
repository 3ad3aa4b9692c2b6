import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from 'vitest';
import { frameOf, type Scrape } from './frame.ts';
import { bars, cut, draw, drawWhole, sortRows, type View } from './picture.ts';
import { Samples } from './samples.ts';

const MIB = 1024 * 1024;
const ids = Array.from({ length: 50 }, (_, n) => `${n + 10}`.padStart(20, 'a'));

function scrape(atMs: number, tokens: number): Scrape {
  return {
    atMs,
    host: {
      ...{ version: '1', vmm: 'QEMU \x1b[2J7', accelerator: 'tcg', upstream: 'x', models: [] },
      ...{ sandboxes: 1, paused: 0, queued: 0, memoryAvailableMib: 100, startedAtMs: 0 },
    },
    list: ids.map((id, n) => ({
      ...{
        id,
        status: 'running',
        pausedTo: null,
        cpus: 1,
        memoryMib: 100,
        memoryMaxMib: null,
        diskMib: 1,
      },
      ...{ metadata: {}, origin: 'pool', snapshot: null, parent: null, accelerator: 'tcg' },
      ...{ createdAtMs: n, endsAtMs: null, onTimeout: 'kill', idleTimeoutMs: null },
      ...{
        autoResume: true,
        onMemoryPressure: 'warn',
        network: null,
        secrets: [],
        timings: null,
        readyMs: 1,
        end: null,
      },
    })),
    loads: {
      sandboxes: ids.map((id, n) => ({
        ...{ id, state: 'ready', memoryBytes: n === 3 ? null : (50 + n) * MIB },
        ...{ modelRequests: 0, tokens: n === 7 ? tokens : 0 },
      })),
      memoryPressure: { some: 0.5, full: 0 },
    },
    samples: new Samples(`neurovisor_tokens_generated_total ${tokens}\n`),
  };
}

const view: View = { sort: 'memory', reverse: false, offset: 0, colour: true, problem: null };
const frame = frameOf(scrape(2000, 30), { last: scrape(1000, 10), oldest: null }, []);

describe('frameOf', () => {
  it('rates are of the time between two scrapes; a first frame has none', () => {
    expect(frame.models).toMatchObject({ tokens: 30, tokensPerSecond: 20 });
    expect(frame.sandboxes[7]).toMatchObject({ tokens: 30, tokensPerSecond: 20, phase: 'ready' });
    const first = frameOf(scrape(2000, 30), { last: null, oldest: null }, []);
    expect(first.models.tokensPerSecond).toBeNull();
    expect(first.sandboxes[7]?.tokensPerSecond).toBeNull();
  });

  it('a VM is marked at 90 % and 98 % of its memory', () => {
    const marks = frame.sandboxes.map(({ pressure }) => pressure);
    expect([marks[3], marks[39], marks[40], marks[47], marks[48]]).toEqual([
      ...['none', 'none', 'high', 'high', 'full'],
    ]);
  });
});

describe('draw', () => {
  it('fits a terminal of any size', () => {
    for (let columns = 1; columns < 160; columns += 7) {
      for (let rows = 1; rows < 60; rows += 3) {
        const lines = draw(frame, { columns, rows }, view);
        expect(lines).toHaveLength(rows);
        for (const line of lines) {
          expect(stripVTControlCharacters(line).length).toBeLessThanOrEqual(columns);
        }
      }
    }
  });

  it('what a daemon says does not steer the terminal', () => {
    const text = draw(frame, { columns: 120, rows: 40 }, { ...view, colour: false }).join('\n');
    expect(text).toContain('QEMU 7');
    expect(text).not.toContain('\x1b');
    const problem = { ...view, colour: false, problem: 'lost\x1b[2J' };
    expect(draw(frame, { columns: 120, rows: 40 }, problem)[0]).toContain('lost');
    expect(draw(frame, { columns: 120, rows: 40 }, problem)[0]).not.toContain('\x1b');
  });

  it('drawWhole: every sandbox, marks, no colour', () => {
    const text = drawWhole(frame, { ...view, colour: false });
    for (const id of ids) expect(text).toContain(id);
    expect(text).toContain('pressure 50.0 % some, 0.0 % full !');
    expect(text).toMatch(/!! +98\.0 MiB of 100 MiB/);
  });

  it('sortRows: by memory, tokens, age or id, and the other way round', () => {
    const first = (sort: View['sort'], reverse = false): string | undefined =>
      sortRows(frame.sandboxes, { sort, reverse })[0]?.id;
    expect([first('memory'), first('tokens'), first('age'), first('id')]).toEqual([
      ...[ids[49], ids[7], ids[0], ids[0]],
    ]);
    expect([first('memory', true), first('id', true)]).toEqual([ids[3], ids[49]]);
  });
});

describe('bars, cut', () => {
  it('bars: the fullest bucket is the highest, one that is not empty is to be seen', () => {
    const counts = [0, 1, 1000, 500];
    const buckets = counts.map((count, n) => ({ le: n === 3 ? null : n + 1, count }));
    expect(bars({ buckets })).toBe('  1.0 s │ ▁█▄              │ 3.0 s   ');
    expect(bars({ buckets: [] })).toBe('');
  });

  it('cut: colours end where the line does', () => {
    expect(cut('\x1b[31mabcdef\x1b[39m', 3)).toBe('\x1b[31mabc\x1b[39m');
  });
});
