/**
 * Hosts with hundreds of sandboxes that grow at random, a guard that checks at each tick, and callers that resume
 * sandboxes.
 */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { actionFor, memoryMarks, reserveMibOf, Shortage } from './host-guard.ts';

const BIRTH_MIB = 35;
const SIZE_MIB = 512;
const TICKS = 300;
/** Growth of all sandboxes together per tick: less than any pause frees. */
const GROWTH_MIB = BIRTH_MIB - 1;
/** Each stuck sandbox costs one check. */
const STUCK_MAX = 5;

interface Simulated {
  readonly id: string;
  readonly canPause: boolean;
  mib: number;
  usedAt: number;
  isPaused: boolean;
}

const hosts = fc.record({
  count: fc.integer({ min: 1, max: 300 }),
  /** Available memory at the start, beyond the reserve. */
  roomMib: fc.integer({ min: 0, max: 2048 }),
  seed: fc.integer({ min: 1, max: 2 ** 31 - 2 }),
  stuck: fc.integer({ min: 0, max: STUCK_MAX }),
  poolMembers: fc.integer({ min: 0, max: 8 }),
});

type Host = typeof hosts extends fc.Arbitrary<infer T> ? T : never;

interface Outcome {
  readonly leastMib: number;
  readonly shortages: number;
  readonly pauses: number;
  readonly resumes: number;
  /** Sandboxes that are paused without an action of the guard. */
  readonly untold: number;
  /** Distance between the two marks in MiB. */
  readonly gapMib: number;
}

function simulate(host: Host): Outcome {
  let state = host.seed;
  const random = (): number => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
  const usedMib = BIRTH_MIB * (host.count + host.poolMembers);
  // The reserve is a share of the total, which is not yet known.
  const reserveMib = reserveMibOf((usedMib + host.roomMib) * (32 / 31) + 512);
  const totalMib = usedMib + host.roomMib + reserveMib;
  const marks = memoryMarks(reserveMib);
  const shortage = new Shortage(marks);
  let poolMembers = host.poolMembers;
  const all: Simulated[] = Array.from({ length: host.count }, (_, n) => {
    return { id: `${n}`, mib: BIRTH_MIB, usedAt: -n, isPaused: false, canPause: n >= host.stuck };
  });
  let available = totalMib - usedMib;
  const heldOff = new Set<string>();
  const told = new Set<string>();
  let [leastMib, shortages, pauses, resumes, untold] = [available, 0, 0, 0, 0];
  for (let tick = 0; tick < TICKS; tick += 1) {
    const running = all.filter(({ isPaused }) => !isPaused);
    for (let left = GROWTH_MIB, tries = 0; left > 0 && tries < running.length; tries += 1) {
      const one = running[Math.floor(random() * running.length)];
      if (one === undefined) break;
      const moreMib = Math.min(Math.floor(random() * 20), SIZE_MIB - one.mib, left);
      one.mib += moreMib;
      left -= moreMib;
      available -= moreMib;
    }
    const wasShort = shortage.isShort;
    let isRefused = false;
    if (shortage.take(available)) {
      shortages += wasShort ? 0 : 1;
      const candidates = running.map(({ id, usedAt }) => ({
        ...{ id, idleMs: tick - usedAt, isHeldOff: heldOff.has(id) },
        ...{ isBusy: random() < 0.3, isPaused: false },
      }));
      const action = actionFor({ policy: 'pause', unusedBytes: 0, poolMembers, candidates });
      isRefused = action.do === 'refuse';
      if (action.do === 'end-pool-member') [poolMembers, available] = [poolMembers - 1, available + BIRTH_MIB];
      const chosen = action.do === 'pause' ? all.find(({ id }) => id === action.id) : undefined;
      if (chosen?.canPause === false) heldOff.add(chosen.id);
      else if (chosen !== undefined) {
        told.add(chosen.id);
        chosen.isPaused = true;
        pauses += 1;
        available += chosen.mib;
      }
    } else if (available - reserveMib >= SIZE_MIB) {
      // A caller uses a paused sandbox again; the queue admits it at its full size.
      const paused = all.filter(({ isPaused }) => isPaused);
      const wanted = paused[Math.floor(random() * paused.length)];
      if (wanted !== undefined) {
        [wanted.isPaused, wanted.usedAt] = [false, tick];
        resumes += 1;
        available -= wanted.mib;
      }
    }
    if (!isRefused) leastMib = Math.min(leastMib, available);
    untold += all.filter(({ id, isPaused }) => isPaused && !told.has(id)).length;
  }
  const gapMib = marks.highMib - marks.lowMib;
  return { leastMib, shortages, pauses, resumes, untold, gapMib };
}

it('memory never runs out while a pause frees more than all grow meanwhile; every pause is an action, and nothing flaps', () => {
  let shortages = 0;
  fc.assert(
    fc.property(hosts, (host) => {
      const outcome = simulate(host);
      shortages += outcome.shortages;
      expect(outcome.leastMib).toBeGreaterThan(0);
      expect(outcome.untold).toBe(0);
      // After a shortage, everything between the marks must be used up again.
      const takenMib = TICKS * GROWTH_MIB + outcome.resumes * SIZE_MIB;
      expect(outcome.shortages).toBeLessThanOrEqual(1 + takenMib / outcome.gapMib);
      expect(outcome.pauses).toBeLessThanOrEqual(host.count + outcome.resumes);
    }),
    { numRuns: 60 },
  );
  expect(shortages).toBeGreaterThan(0);
});
