/**
 * Compares the queue with a naive model: arrays, no timers, everything computed anew after each step. The model
 * computes which requests have started, in which order, and the outcome of each.
 *
 * Time moves in quanta of the memory poll; timeouts end inside a quantum, so nothing happens at the same instant as a
 * poll.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { settle } from '../../../test/support/fake-members.ts';
import { FakeClock } from '../../base/clock.ts';
import { BusyError, SandboxError } from '../contract/errors.ts';
import { Handover, MEMORY_POLL_MS, RETRY_MS_MAX, RETRY_MS_MIN, StartQueue } from './start-queue.ts';

const CONCURRENCY = 2;
const WAITING_MAX = 4;
const TOTAL_MIB = 1000;
const RESERVE_MIB = 100;

type Outcome = 'served' | 'given' | 'failed' | 'busy' | 'cancelled' | 'spec_invalid';
type Priority = 'normal' | 'low';

interface Request {
  readonly id: number;
  readonly tenant: string;
  readonly memoryMib: number;
  readonly timeoutMs: number | null;
  readonly priority: Priority;
  readonly takes: boolean;
  /** Memory that it shares with other starts; the first one brings it. */
  readonly shares: Shared | null;
}

type Shared = 'x' | 'y';

interface Waiting extends Request {
  readonly dueMs: number;
}

class Model {
  nowMs = 0;
  availableMib = TOTAL_MIB;
  missingMib: Record<Shared, number> = { x: 0, y: 0 };
  closed = false;
  waiting: Waiting[] = [];
  running: Request[] = [];
  readonly begun: number[] = [];
  readonly outcomes = new Map<number, Outcome>();
  readonly rounds: Record<Priority | 'takes', string[]> = { normal: [], low: [], takes: [] };

  of(priority: Priority): Waiting[] {
    return this.waiting.filter((one) => one.priority === priority);
  }

  get reservedMib(): number {
    return this.#neededBy(this.running);
  }

  /** Shared memory counts once. */
  #neededBy(starts: readonly Request[]): number {
    const own = starts.reduce((sum, { memoryMib }) => sum + memoryMib, 0);
    const missing = (['x', 'y'] as const).map((key) =>
      starts.some(({ shares }) => shares === key) ? this.missingMib[key] : 0,
    );
    return missing.reduce((sum, mib) => sum + mib, own);
  }

  run(request: Request, aborted: boolean): void {
    const { id, memoryMib, timeoutMs, priority } = request;
    const dueMs = this.nowMs + (timeoutMs ?? Number.POSITIVE_INFINITY);
    const isTooLarge = memoryMib > TOTAL_MIB - RESERVE_MIB;
    if (this.closed || aborted || isTooLarge) {
      this.outcomes.set(id, this.closed || aborted ? 'cancelled' : 'spec_invalid');
      return;
    }
    this.dispatch();
    if (this.of(priority).length >= WAITING_MAX) this.outcomes.set(id, 'busy');
    else this.waiting.push({ ...request, dueMs });
    this.dispatch();
  }

  leave(one: Waiting, outcome: Outcome): void {
    this.waiting = this.waiting.filter(({ id }) => id !== one.id);
    this.outcomes.set(one.id, outcome);
    this.dispatch();
  }

  finish(index: number, outcome: 'served' | 'failed'): void {
    const [done] = this.running.splice(index, 1);
    if (done !== undefined) this.outcomes.set(done.id, outcome);
    this.dispatch();
  }

  /** @returns whether a request took it */
  offer(): boolean {
    const takers = this.waiting.filter((one) => one.takes);
    const first = this.#first('takes', takers);
    if (first === undefined) return false;
    this.#passOn('takes', first);
    this.leave(first, 'given');
    return true;
  }

  advance(): void {
    const untilMs = this.nowMs + MEMORY_POLL_MS;
    for (const one of [...this.waiting].sort((a, b) => a.dueMs - b.dueMs || a.id - b.id)) {
      if (one.dueMs <= untilMs && this.waiting.includes(one)) this.leave(one, 'busy');
    }
    this.nowMs = untilMs;
    this.dispatch();
  }

  close(): void {
    this.closed = true;
    for (const one of this.waiting) this.outcomes.set(one.id, 'cancelled');
    this.waiting = [];
  }

  dispatch(): void {
    for (const name of ['normal', 'low', 'takes'] as const) this.#keepRound(name);
    if (this.closed) return;
    while (this.running.length < CONCURRENCY) {
      const priority = this.of('normal').length > 0 ? 'normal' : 'low';
      const first = this.#first(priority, this.of(priority));
      if (first === undefined) return;
      const leftMib = this.availableMib - this.#neededBy([...this.running, first]);
      if (leftMib < RESERVE_MIB) return;
      this.#passOn(priority, first);
      this.waiting = this.waiting.filter(({ id }) => id !== first.id);
      this.running.push(first);
      this.begun.push(first.id);
      for (const name of ['normal', 'low', 'takes'] as const) this.#keepRound(name);
    }
  }

  #first(name: Priority | 'takes', among: Waiting[]): Waiting | undefined {
    const [tenant] = this.rounds[name];
    return among.find((one) => one.tenant === tenant);
  }

  #passOn(name: Priority | 'takes', { tenant }: Waiting): void {
    this.rounds[name] = [...this.rounds[name].filter((one) => one !== tenant), tenant];
  }

  /** Tenants without a waiting request leave the round; new ones join at its end. */
  #keepRound(name: Priority | 'takes'): void {
    const inLine = name === 'takes' ? this.waiting.filter((one) => one.takes) : this.of(name);
    const tenants = new Set(inLine.map(({ tenant }) => tenant));
    const kept = this.rounds[name].filter((tenant) => tenants.has(tenant));
    this.rounds[name] = [...new Set([...kept, ...tenants])];
  }
}

class Real {
  readonly clock = new FakeClock();
  readonly handover = new Handover<string>();
  readonly begun: number[] = [];
  readonly outcomes = new Map<number, Outcome>();
  readonly aborters = new Map<number, AbortController>();
  readonly starts = new Map<number, PromiseWithResolvers<string>>();
  availableMib = TOTAL_MIB;
  missingMib: Record<Shared, number> = { x: 0, y: 0 };
  requests = 0;
  readonly queue = new StartQueue({
    concurrency: CONCURRENCY,
    totalMib: TOTAL_MIB,
    reserveMib: RESERVE_MIB,
    waitingMax: WAITING_MAX,
    availableMib: () => this.availableMib,
    clock: this.clock,
  });

  run({ id, timeoutMs, takes, shares, ...request }: Request, aborted: boolean): void {
    const aborter = new AbortController();
    if (aborted) aborter.abort();
    this.aborters.set(id, aborter);
    const handover = takes ? this.handover : undefined;
    const { signal } = aborter;
    const shared = shares === null ? undefined : { key: shares, missingMib: () => this.missingMib[shares] };
    this.queue
      .run({ ...request, shared, queueTimeoutMs: timeoutMs, signal, handover }, () => {
        this.begun.push(id);
        const start = Promise.withResolvers<string>();
        this.starts.set(id, start);
        return start.promise;
      })
      .then(
        (value) => this.#record(id, value === 'given' ? 'given' : 'served'),
        (error: unknown) => this.#record(id, outcomeOf(error)),
      );
  }

  #record(id: number, outcome: Outcome): void {
    expect(this.outcomes.has(id)).toBe(false);
    this.outcomes.set(id, outcome);
  }
}

function outcomeOf(error: unknown): Outcome {
  if (error instanceof BusyError) {
    expect(error.retryAfterMs).toBeGreaterThanOrEqual(RETRY_MS_MIN);
    expect(error.retryAfterMs).toBeLessThanOrEqual(RETRY_MS_MAX);
    return 'busy';
  }
  if (!(error instanceof SandboxError)) return 'failed';
  return error.code === 'spec_invalid' ? 'spec_invalid' : 'cancelled';
}

/** Runs one step on both, and compares them. */
class Step implements fc.AsyncCommand<Model, Real> {
  readonly name: string;
  readonly #act: (model: Model, real: Real) => void;

  constructor(name: string, act: (model: Model, real: Real) => void) {
    this.name = name;
    this.#act = act;
  }

  check(): boolean {
    return true;
  }

  async run(model: Model, real: Real): Promise<void> {
    this.#act(model, real);
    await settle();
    expect(real.begun).toEqual(model.begun);
    expect(new Map([...real.outcomes].sort(([a], [b]) => a - b))).toEqual(
      new Map([...model.outcomes].sort(([a], [b]) => a - b)),
    );
    expect(real.queue.stats()).toEqual({
      running: model.running.length,
      waiting: model.of('normal').length,
      waitingLow: model.of('low').length,
      reservedMib: model.reservedMib,
    });
  }

  toString(): string {
    return this.name;
  }
}

const request = fc.record({
  tenant: fc.constantFrom('a', 'b', 'c'),
  memoryMib: fc.constantFrom(1, 200, 300, 450, 900, 901),
  // Timeouts end inside a quantum.
  timeoutMs: fc.option(fc.nat({ max: 6 }).map((quanta) => quanta * MEMORY_POLL_MS + 100)),
  priority: fc.constantFrom<Priority>('normal', 'normal', 'low'),
  takes: fc.boolean(),
  shares: fc.constantFrom<Shared | null>(null, 'x', 'x', 'y'),
});

const steps = [
  fc.tuple(request, fc.nat({ max: 9 })).map(
    ([asked, luck]) =>
      new Step(`run(${JSON.stringify(asked)})`, (model, real) => {
        const one = { ...asked, id: real.requests++ };
        model.run(one, luck === 0);
        real.run(one, luck === 0);
      }),
  ),
  fc.tuple(fc.nat({ max: CONCURRENCY - 1 }), fc.boolean()).map(
    ([index, well]) =>
      new Step(`finish(${index}, ${well})`, (model, real) => {
        const id = model.running[index]?.id;
        if (id === undefined) return;
        if (well) real.starts.get(id)?.resolve('served');
        else real.starts.get(id)?.reject(new Error('failed'));
        model.finish(index, well ? 'served' : 'failed');
      }),
  ),
  fc.nat({ max: WAITING_MAX * 2 }).map(
    (index) =>
      new Step(`cancel(${index})`, (model, real) => {
        const one = model.waiting[index];
        if (one === undefined) return;
        model.leave(one, 'cancelled');
        real.aborters.get(one.id)?.abort();
      }),
  ),
  fc.constant(
    new Step('offer', (model, real) => {
      expect(real.handover.offer('given')).toBe(model.offer());
    }),
  ),
  fc.integer({ min: 1, max: 8 }).map(
    (quanta) =>
      new Step(`advance(${quanta})`, (model, real) => {
        for (let i = 0; i < quanta; i++) model.advance();
        real.clock.advance(quanta * MEMORY_POLL_MS);
      }),
  ),
  fc.constantFrom(0, 150, 400, 700, TOTAL_MIB).map(
    (mib) =>
      new Step(`available(${mib})`, (model, real) => {
        model.availableMib = mib;
        real.availableMib = mib;
      }),
  ),
  fc.tuple(fc.constantFrom<Shared>('x', 'y'), fc.constantFrom(0, 0, 50, 250)).map(
    ([key, mib]) =>
      new Step(`missing(${key}, ${mib})`, (model, real) => {
        model.missingMib[key] = mib;
        real.missingMib[key] = mib;
      }),
  ),
];

describe('StartQueue properties', () => {
  it('StartQueue: starts, serves and refuses as the naive model does; nothing is left at the end', async () => {
    await fc.assert(
      fc.asyncProperty(fc.commands(steps, { maxCommands: 60, size: 'max' }), fc.boolean(), async (commands, closes) => {
        const model = new Model();
        const real = new Real();
        await fc.asyncModelRun(() => ({ model, real }), commands);
        await endAll(model, real, closes);
        expect(real.outcomes.size).toBe(real.requests);
        expect(real.queue.stats()).toEqual({ running: 0, waiting: 0, waitingLow: 0, reservedMib: 0 });
        await real.queue.close();
      }),
      { numRuns: 400 },
    );
  });
});

/** With free memory each waiting request starts; after `close` each is refused. */
async function endAll(model: Model, real: Real, closes: boolean): Promise<void> {
  const closing = new Step('close', () => {
    model.close();
    void real.queue.close();
  });
  if (closes) await closing.run(model, real);
  // Enough for any single request, including what it shares.
  model.availableMib = 2 * TOTAL_MIB;
  real.availableMib = 2 * TOTAL_MIB;
  const poll = new Step('poll', () => {
    model.advance();
    real.clock.advance(MEMORY_POLL_MS);
  });
  await poll.run(model, real);
  while (model.running.length > 0) {
    const id = model.running[0]?.id ?? -1;
    model.finish(0, 'served');
    real.starts.get(id)?.resolve('served');
    await settle();
  }
}
