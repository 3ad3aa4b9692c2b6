/**
 * How fairly sandboxes share a model server with few slots. The server is scripted and takes a fixed time for each token, so
 * the figure shows the bridge's choice, and the little time that it takes itself.
 *
 *     nine polite sandboxes, a request at a time ─┐
 *     a hog, 64 requests at once, always more   ──┼─► a port each ─► bridge ─► server with 4 or 16 slots
 *
 * No running request is interrupted, so a polite request waits for the first slot that becomes free, whatever the policy.
 */
import { CleanupStack } from '../../src/base/cleanup.ts';
import { sleep } from '../../src/base/clock.ts';
import { jainIndex, percentile } from '../../src/base/statistics.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { type Answered, FairWorld, type Load, type Way } from './fair-world.ts';
import type { ServerReport, Tokens } from './model-server.ts';
import { leastWaitMs, timesOf } from './server-times.ts';

export interface FairnessSizes {
  readonly politeCallers: number;
  /** Requests of each polite caller per round. */
  readonly requests: number;
  /** Mean pause between the requests of a polite caller. */
  readonly pauseMs: number;
  readonly hogAtOnce: number;
  /** Window in which the tokens of hogs are counted. */
  readonly windowMs: number;
}

const SIZES: FairnessSizes = { politeCallers: 9, requests: 4, pauseMs: 800, hogAtOnce: 64, windowMs: 8_000 };

/** Takes 96 ms; its answer is one chunk, which comes at the end. */
const POLITE: Load = { promptTokens: 160, answerTokens: 16 };
/** Takes 800 ms. */
const LONG: Load = { promptTokens: 800, answerTokens: 400 };
/** Requests of a hog differ; otherwise its slots would become free at the same time. */
const FACTORS = [0.5, 1.25, 0.75, 1.5, 1];

interface Scenario {
  readonly name: string;
  readonly slots: number;
  readonly hog: Load;
}

const SCENARIOS: readonly Scenario[] = [
  { name: 'many-4', slots: 4, hog: POLITE },
  { name: 'long-4', slots: 4, hog: LONG },
  { name: 'long-16', slots: 16, hog: LONG },
];
/** Each hog's requests have one size, from 52 to 576 ms: some mostly prompt, some mostly answer. */
const HOGS: readonly Load[] = [40, 80, 160, 320, 640].flatMap((promptTokens) =>
  [32, 256].map((answerTokens) => ({ promptTokens, answerTokens })),
);
const INDEX_SLOTS = 4;
/** More than one hog can have running while ten share. */
const INDEX_AT_ONCE = 6;
const INDEX = 'bridge.fairness.index';
const BOTH = { accelerator: 'none', baseline: null } as const;

export const fairnessBenchmark = fairnessBenchmarkOf(SIZES);

export function fairnessBenchmarkOf(sizes: FairnessSizes): Benchmark {
  return {
    names: [...SCENARIOS.flatMap(({ name }) => namesOf(name)), INDEX],
    summary:
      'time to the first token of polite sandboxes beside a hog, idle slots, and how equal the shares of ten hogs are; a scripted model server',
    withoutRuntime: true,
    async measure(context) {
      const measured: Measurement[] = [];
      for (const scenario of SCENARIOS) {
        if (!namesOf(scenario.name).some((name) => context.wants(name))) continue;
        measured.push(...(await measureFirst(scenario, sizes, context)));
      }
      if (context.wants(INDEX)) measured.push(await measureIndex(sizes, context));
      return measured;
    },
  };
}

function namesOf(scenario: string): readonly string[] {
  const first = `bridge.fairness.first/${scenario}`;
  return [first, `${first}/least`, `${first}/fifo`, `bridge.fairness.idle/${scenario}`];
}

type Context = Pick<BenchContext, 'rounds' | 'signal' | 'say'>;

/** The polite callers alone, beside the hog, and beside it without turns, in each round. */
async function measureFirst(
  scenario: Scenario,
  sizes: FairnessSizes,
  { rounds, signal, say }: Context,
): Promise<readonly Measurement[]> {
  const { slots } = scenario;
  const polite = Array.from({ length: sizes.politeCallers }, (_, i) => `polite-${i}`);
  await using cleanup = new CleanupStack();
  const world = await FairWorld.open(cleanup, slots, ['hog', ...polite], signal);
  const askAll = (way: Way, requests: number): Promise<readonly Answered[]> =>
    inParallel(polite, async (caller, i) => {
      const answers: Answered[] = [];
      for (let k = 0; k < requests; k += 1) {
        await sleep(sizes.pauseMs * (0.5 + spread(i * requests + k)), signal);
        answers.push(await world.ask(way, caller, POLITE));
      }
      return answers;
    });
  const loads = FACTORS.map((factor) => scaled(scenario.hog, factor));
  const beside = async (way: Way, requests: number): Promise<Beside> => {
    await using hog = world.hogs(way, { hog: loads }, sizes.hogAtOnce);
    await world.until(() => hog.leastFinished >= HOG_FINISHED * slots);
    await world.report();
    const begunAtMs = performance.now();
    const answers = await askAll(way, requests);
    const report = await world.report();
    return { answers, report, slotMs: slots * (performance.now() - begunAtMs) };
  };
  const samples = { alone: [] as number[], turns: [] as number[], fifo: [] as number[] };
  const [least, gaps] = [[] as number[], [] as number[]];
  let slotMs = 0;
  await askAll('turns', 1);
  for (let round = 0; round < rounds; round += 1) {
    say(`${scenario.name}, round ${round + 1} of ${rounds}`);
    samples.alone.push(...firsts(await askAll('turns', sizes.requests)));
    const turns = await beside('turns', sizes.requests);
    expectTurns(turns.report);
    samples.turns.push(...firsts(turns.answers));
    least.push(...turns.answers.map((one) => leastFirstMs(one, turns.report, slots)));
    gaps.push(...turns.report.gapsMs);
    slotMs += turns.slotMs;
    // Each waits for the whole queue of the hog.
    samples.fifo.push(...firsts((await beside('fifo', 1)).answers));
  }
  const [first = '', toLeast = '', toFifo = '', idle = ''] = namesOf(scenario.name);
  const own = { accelerator: 'none', unit: 'ms', samples: samples.turns } as const;
  const hogMs = timesOf(scenario.hog.promptTokens, scenario.hog.answerTokens).dueMs;
  const times = `${slots} slots; a request of the hog takes ${hogMs} ms on average, the first token of a polite one ${POLITE_FIRST_MS} ms`;
  return [
    {
      ...own,
      name: first,
      baseline: { name: 'the same without the hog', samples: samples.alone },
      note: `${tailNote(samples.turns, samples.alone)}; ${times}`,
    },
    {
      ...own,
      name: toLeast,
      baseline: { name: 'if the first free slot were its own', samples: least },
      note: `${tailNote(samples.turns, least)}; what is possible without interrupting a running request`,
    },
    {
      ...own,
      name: toFifo,
      baseline: { name: 'beside the hog, first come first served', samples: samples.fifo },
      note: `${tailNote(samples.turns, samples.fifo)}; the bridge does not know the slots, and the server has all requests`,
    },
    { ...BOTH, name: idle, unit: 'ms', samples: gaps, note: idleNote(gaps, slotMs) },
  ];
}

interface Beside {
  readonly answers: readonly Answered[];
  readonly report: ServerReport;
  /** Time of all slots together. */
  readonly slotMs: number;
}

/** Requests of the hog for each slot before the others begin: after that, slots no longer become free together. */
const HOG_FINISHED = 2;
const POLITE_FIRST_MS = timesOf(POLITE.promptTokens, POLITE.answerTokens).firstMs;

const firsts = (answers: readonly Answered[]): readonly number[] => answers.map(({ firstMs }) => firstMs);

const leastFirstMs = ({ sentAtMs }: Answered, { turns }: ServerReport, slots: number): number =>
  POLITE_FIRST_MS + leastWaitMs(turns, slots, sentAtMs);

/** @throws if the bridge has sent more than the server has slots */
function expectTurns({ queuedMax }: ServerReport): void {
  if (queuedMax > 0) throw new Error(`${queuedMax} requests waited in the model server`);
}

function tailNote(own: readonly number[], baseline: readonly number[]): string {
  const [ours, theirs] = [percentile(own, 95) ?? 0, percentile(baseline, 95) ?? 0];
  return `p95 ${(ours / theirs).toFixed(2)} ×`;
}

/** The hog always has waiting requests. */
function idleNote(gaps: readonly number[], slotMs: number): string {
  const sum = gaps.reduce((total, one) => total + one, 0);
  const share = (100 * sum) / slotMs;
  return `of a slot between two requests, while others wait: from the end of an answer to the next request; ${share.toFixed(2)} % of the slots' time`;
}

/** Ten hogs, for a time in which each has waiting requests. */
async function measureIndex({ windowMs }: FairnessSizes, { rounds, signal, say }: Context): Promise<Measurement> {
  const loads = Object.fromEntries(HOGS.map((load, i) => [`hog-${i}`, [load]]));
  const names = Object.keys(loads);
  await using cleanup = new CleanupStack();
  const world = await FairWorld.open(cleanup, INDEX_SLOTS, names, signal);
  const indexOf = async (way: Way): Promise<number> => {
    await using hogs = world.hogs(way, loads, INDEX_AT_ONCE);
    await world.until(() => hogs.leastFinished > 0);
    await world.report();
    await sleep(windowMs, signal);
    const report = await world.report();
    if (way === 'turns') expectTurns(report);
    return jainIndex(names.map((name) => work(report.served[name]))) ?? 0;
  };
  const samples: Record<Way, number[]> = { turns: [], fifo: [] };
  for (let round = 0; round < rounds; round += 1) {
    say(`ten hogs, round ${round + 1} of ${rounds}`);
    for (const way of ['fifo', 'turns'] as const) samples[way].push(await indexOf(way));
  }
  return {
    name: INDEX,
    unit: 'index',
    accelerator: 'none',
    samples: samples.turns,
    baseline: { name: 'first come first served', samples: samples.fifo },
    note: `Jain's index of the tokens of ten sandboxes in ${windowMs / 1000} s, those of answers twice; least ${Math.min(...samples.turns).toFixed(3)}; requests of 52 to 576 ms, ${INDEX_SLOTS} slots`,
  };
}

const work = ({ prompt, answer }: Tokens = { prompt: 0, answer: 0 }): number => prompt + 2 * answer;

const scaled = ({ promptTokens, answerTokens }: Load, factor: number): Load => ({
  promptTokens: Math.round(promptTokens * factor),
  answerTokens: Math.round(answerTokens * factor),
});

/** The n-th of numbers in [0, 1) that are spread evenly, the same in each run. */
const spread = (n: number): number => (n * 0.618_033_988_749_895) % 1;

async function inParallel<T, R>(
  all: readonly T[],
  work: (one: T, index: number) => Promise<readonly R[]>,
): Promise<readonly R[]> {
  return (await Promise.all(all.map(work))).flat();
}
