import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from 'vitest';
import type { ModelBudget } from '../../base/request/model-limits.ts';
import { MIB } from '../../base/units.ts';
import { NO_EVIDENCE } from '../../sandbox/contract/ending.ts';
import { NO_MODEL_POLICY } from '../../sandbox/contract/model-policy.ts';
import type { SandboxLoad } from '../../sandbox/plane/load.ts';
import { frameOf, type Scrape, type TopFrame } from './frame.ts';
import { cut } from './ink.ts';
import { draw, drawWhole, sortRows, sparkline, type View } from './picture.ts';
import { Samples } from './samples.ts';

const ids = Array.from({ length: 50 }, (_, n) => `${n + 10}`.padStart(20, 'a'));

const NO_MARKS = { lastPressure: null, lastOom: null };
const PRESSURE = {
  ...({ type: 'pressure', source: 'guest', some: 12.4, full: 3 } as const),
  memoryBytes: 90 * MIB,
  limitBytes: 100 * MIB,
};
const OOM = { ...({ source: 'guest', victim: { pid: 7, name: 'python3', rssBytes: MIB }, detail: '' } as const) };

type Marks = Pick<SandboxLoad, 'lastPressure' | 'lastOom'>;

function scrape(
  atMs: number,
  tokens: number,
  marks: readonly Marks[] = [],
  events: Scrape['loads']['events'] = [],
): Scrape {
  return {
    host: {
      ...{
        version: '1',
        vmmReason: 'no KVM',
        memorySharing: 'none',
        vmm: 'QEMU \x1b[2J7',
        accelerator: 'tcg',
        upstream: 'x',
        models: [],
      },
      sandboxes: 1,
      paused: 0,
      queued: 0,
      memoryAvailableMib: 100,
      startedAtMs: 0,
      modelBudgets: [],
      starting: 0,
      cordoned: false,
      longTurns: [],
    },
    list: ids.map((id, n) => ({
      ...{
        id,
        name: null,
        status: 'running',
        pausedTo: null,
        pauseReason: null,
        foreignPause: null,
        cpus: 1,
        memoryMib: 100,
        memoryMaxMib: null,
        diskMib: 1,
        image: null,
      },
      metadata: {},
      annotations: {},
      origin: 'pool',
      snapshot: null,
      template: null,
      parent: null,
      accelerator: 'tcg',
      sharesMemory: null,
      createdAtMs: n,
      endsAtMs: null,
      onTimeout: 'kill',
      idleTimeoutMs: null,
      ...{
        autoResume: true,
        onMemoryPressure: 'warn',
        diskLimits: {},
        models: NO_MODEL_POLICY,
        modelUse: { account: '', used: null },
        packages: null,
        network: null,
        secrets: [],
        volumes: [],
        timings: null,
        readyMs: 1,
        end: null,
      },
    })),
    loads: {
      sandboxes: ids.map((id, n) => ({
        id,
        state: 'ready',
        memoryBytes: n === 3 ? null : (50 + n) * MIB,
        modelRequests: 0,
        tokens: n === 7 ? tokens : 0,
        ...(marks[n] ?? NO_MARKS),
      })),
      atMs,
      events,
      sharedMemoryBytes: 170 * MIB,
      memoryPressure: { some: 0.5, full: 0 },
    },
    samples: new Samples(`neurovisor_tokens_generated_total ${tokens}\n`),
  };
}

const view: View = { sort: 'memory', reverse: false, offset: 0, color: true, problem: null };
const frame = frameOf(scrape(2000, 30), { last: scrape(1000, 10), oldest: null }, []);

describe('frameOf', () => {
  it('computes rates between two scrapes, and none in the first frame', () => {
    expect(frame.models).toMatchObject({ tokens: 30, tokensPerSecond: 20 });
    expect(frame.sandboxes[7]).toMatchObject({ tokens: 30, tokensPerSecond: 20, phase: 'ready' });
    const first = frameOf(scrape(2000, 30), { last: null, oldest: null }, []);
    expect(first.models.tokensPerSecond).toBeNull();
    expect(first.sandboxes[7]?.tokensPerSecond).toBeNull();
  });

  it('marks a VM at 90 % and 98 % of its memory', () => {
    const marks = frame.sandboxes.map(({ pressure }) => pressure);
    expect([marks[3], marks[39], marks[40], marks[47], marks[48]]).toEqual(['none', 'none', 'high', 'high', 'full']);
  });
});

const NO_BEFORE = { last: null, oldest: null };

describe('frameOf: models', () => {
  it('has what is left of budgets, and the requests that wait for model servers; `top` shows both', () => {
    const one = scrape(7_200_000, 0);
    const used = { inputTokens: 1, outputTokens: 2, requests: 3, costNanoDollars: 995_000_000 };
    const withBudget = (n: number, budget: ModelBudget, window: number) => {
      const info = one.list[n];
      if (info === undefined) throw new Error('no such row');
      const models = { ...NO_MODEL_POLICY, budget };
      return { ...info, models, modelUse: { account: info.id, used: { ...used, window } } };
    };
    const hourly = { windowMs: 3_600_000 };
    const list = [
      withBudget(0, { requests: 3, outputTokens: 10 }, 0),
      withBudget(1, { costNanoDollars: 5_000_000_000, requests: 90 }, 0),
      withBudget(2, { ...hourly, inputTokens: 2_000_000 }, 1),
      ...one.list.slice(3, 4),
    ];
    const samples = new Samples(
      'neurovisor_model_queue_running 2\nneurovisor_model_queue_waiting 3\n' +
        'neurovisor_model_queue_longest_wait_seconds 4.5\n',
    );
    const made = frameOf({ ...one, list, samples }, NO_BEFORE, []);
    expect(made.models.queue).toEqual({ running: 2, waiting: 3, longestWaitMs: 4500 });
    expect(made.sandboxes[0]?.modelBudget).toEqual([
      { kind: 'outputTokens', limit: 10, used: 2, left: 8 },
      { kind: 'requests', limit: 3, used: 3, left: 0 },
    ]);
    const text = drawWhole(made, { ...view, sort: 'id', color: false });
    expect(text).toMatch(/^turns {6}2 in flight · 3 waiting, longest 4\.5\d* s$/m);
    for (const left of ['0 req', '$4.00', '2.0M in']) expect(text).toContain(` ${left} `);
    const limits = { outputTokens: 10, windowMs: 3_600_000 };
    const modelBudgets = [
      { tenant: null, limits: { ...limits, outputTokens: 9_000_000 }, used: null },
      ...['a', 'b', 'c', 'acme\x1b[2J'].map((tenant) => ({
        tenant,
        limits,
        used: tenant === 'a' ? null : { ...used, outputTokens: 9, window: 2, windowMs: 3_600_000 },
      })),
    ];
    const shared = frameOf({ ...one, host: { ...one.host, modelBudgets } }, NO_BEFORE, []);
    expect(shared.models.budgets[0]).toEqual({
      tenant: null,
      states: [{ kind: 'outputTokens', limit: 9_000_000, used: 0, left: 9_000_000 }],
    });
    expect(drawWhole(shared, { ...view, color: false })).toMatch(
      /^budgets {4}b 1 out left · c 1 out left · acme\S* 1 out left · host 9.0M out left · 1 more$/m,
    );
    expect(text).not.toContain('budgets');
    const idle = { ...made, models: { ...made.models, queue: { ...made.models.queue, running: 0, waiting: 0 } } };
    expect(drawWhole(idle, view)).not.toContain('turns');
  });
});

describe('frameOf: memory pressure', () => {
  const at = 100_000;
  const shortageAt = (marks: Marks) =>
    frameOf(scrape(at, 0, [marks]), { last: null, oldest: null }, []).sandboxes[0]?.shortage;

  it('shows pressure, near OOM and a kill for a limited time', () => {
    const pressure = { ...PRESSURE, atMs: at - 15_000 };
    expect(shortageAt({ lastPressure: pressure, lastOom: null })).toEqual({ type: 'pressure', some: 12.4, full: 3 });
    const old = { ...PRESSURE, atMs: at - 15_001 };
    expect(shortageAt({ lastPressure: old, lastOom: null })).toBeNull();
    const near = { ...PRESSURE, type: 'near_oom' as const, atMs: at - 30_000 };
    expect(shortageAt({ lastPressure: near, lastOom: null })).toEqual({ type: 'near_oom' });
    const killed = { ...OOM, atMs: at - 60_000 };
    expect(shortageAt({ lastPressure: old, lastOom: killed })).toEqual({ type: 'oom', victim: 'python3' });
  });

  it('prefers a kill over the pressure around it, and new pressure over the kill', () => {
    const killed = { ...OOM, atMs: at - 40_000 };
    const around = { ...PRESSURE, atMs: at - 38_000 };
    const later = { ...PRESSURE, atMs: at - 1000 };
    expect(shortageAt({ lastPressure: around, lastOom: killed })?.type).toBe('oom');
    expect(shortageAt({ lastPressure: later, lastOom: killed })?.type).toBe('pressure');
  });

  it('orders events and status changes by time, with each end once', () => {
    const [one = ''] = ids;
    const end = { cause: 'guest-oom', detail: 'x', atMs: 3, evidence: NO_EVIDENCE } as const;
    const events = [
      { ...PRESSURE, sandbox: one, seq: 1, atMs: 1 },
      { type: 'end', end, sandbox: one, seq: 2, atMs: 3 },
    ] as const;
    const change = { sandbox: one, atMs: 2, type: 'status', text: 'paused (pool)' } as const;
    const ended = { sandbox: one, atMs: 4, type: 'end', text: 'guest-oom: x' } as const;
    const other = { ...ended, sandbox: 'other', atMs: 5, text: 'stopped' };
    const changes = [change, ended, other];
    const made = frameOf(scrape(5, 0, [], events), { last: null, oldest: null }, changes);
    expect(made.events.map(({ type }) => type)).toEqual(['pressure', 'status', 'end', 'end']);
    expect(made.events.map(({ text }) => text)).toEqual([
      'some 12%, full 3%, 90.0 MiB of 100 MiB (guest)',
      'paused (pool)',
      'guest-oom: x',
      'stopped',
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

  it('80 by 24: shows memory, pressure, tokens, age and the last events', () => {
    const marks = [{ lastPressure: { ...PRESSURE, atMs: 1 }, lastOom: null }];
    const events = [{ ...PRESSURE, type: 'near_oom', sandbox: ids[1] ?? '', seq: 1, atMs: 1 }] as const;
    const made = frameOf(scrape(5000, 0, marks, events), { last: null, oldest: null }, []);
    const lines = draw(made, { columns: 80, rows: 24 }, { ...view, sort: 'id', color: false });
    const text = lines.join('\n');
    expect(text).toMatch(/^aaaaaaaaaa {2}running {3}█{4}░{4} {3}50\/100 MiB +some 12 full 3 +0 +5 s$/m);
    expect(text).toContain('near_oom: 90.0 MiB of 100 MiB (guest)');
    expect(lines.filter((line) => line.includes('running ')).length).toBeGreaterThan(5);
  });

  it('gives rows that the list does not need to events', () => {
    const many = Array.from({ length: 40 }, (_, n) => ({
      ...({ type: 'dropped', count: n, sandbox: 's', seq: n + 1, atMs: n } as const),
    }));
    const made = frameOf(scrape(5, 0, [], many), { last: null, oldest: null }, []);
    const few = { ...made, sandboxes: made.sandboxes.slice(0, 2) };
    const told = (frame: TopFrame): number =>
      draw(frame, { columns: 80, rows: 40 }, view).filter((line) => line.includes('events dropped')).length;
    expect(told(few)).toBeGreaterThan(20);
    expect(told(made)).toBe(6);
  });

  it('removes control characters from text of the daemon', () => {
    const text = draw(frame, { columns: 120, rows: 40 }, { ...view, color: false }).join('\n');
    expect(text).toContain('QEMU 7');
    expect(text).not.toContain('\x1b');
    const problem = { ...view, color: false, problem: 'lost\x1b[2J' };
    expect(draw(frame, { columns: 120, rows: 40 }, problem)[0]).toContain('lost');
    expect(draw(frame, { columns: 120, rows: 40 }, problem)[0]).not.toContain('\x1b');
  });

  it('drawWhole: prints every sandbox with marks, without color', () => {
    const text = drawWhole(frame, { ...view, color: false });
    for (const id of ids) expect(text).toContain(id);
    expect(text).toContain('pressure 50.0 % some, 0.0 % full !');
    expect(text).toMatch(/!! +98\/100 MiB/);
  });

  it('sortRows: sorts by memory, tokens, age or ID, in both directions', () => {
    const first = (sort: View['sort'], reverse = false): string | undefined =>
      sortRows(frame.sandboxes, { sort, reverse })[0]?.id;
    expect([first('memory'), first('tokens'), first('age'), first('id')]).toEqual([ids[49], ids[7], ids[0], ids[0]]);
    expect([first('memory', true), first('id', true)]).toEqual([ids[3], ids[49]]);
  });
});

describe('sparkline, cut', () => {
  it('sparkline: the fullest bucket is the highest, and any count is visible', () => {
    const counts = [0, 1, 1000, 500];
    const buckets = counts.map((count, n) => ({ le: n === 3 ? null : n + 1, count }));
    expect(sparkline({ buckets })).toBe('  1.0 s │ ▁█▄              │ 3.0 s   ');
    expect(sparkline({ buckets: [] })).toBe('');
  });

  it('cut: keeps color codes at the end of the line', () => {
    expect(cut('\x1b[31mabcdef\x1b[39m', 3)).toBe('\x1b[31mabc\x1b[39m');
  });
});
