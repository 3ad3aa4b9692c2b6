/**
 * The layers after the gate, in lanes that run at once: each VM is emulated by one thread, and tests wait for timers and
 * small programs, too. Layers without a lane of their own are cut into parts, so that all lanes end at about the same
 * time.
 */
import { duration } from '../../src/cli/output/table.ts';
import { LANE_VARIABLE } from '../../test/support/lane.ts';
import { labeled } from './child.ts';
import type { Layer, LayerContext } from './layer.ts';
import type { LayerResult } from './results.ts';
import { counts, sum } from './summary.ts';
import { type Times, usualMs } from './times.ts';

/** A layer, or some of its files. */
export interface Unit {
  readonly layer: Layer;
  readonly title: string;
  /** Default: all, or those that the command names. */
  readonly files?: readonly string[];
}

/** One more than the processors of the smallest machine: a lane with a VM uses three quarters of one. */
const LANES = 3;
/** The usual duration of a part, ms: long enough that the start of Vitest does not count. */
const PART_MS = 4 * 60_000;
/** The assumed duration of a file that has not run yet, ms. */
const UNKNOWN_MS = 40_000;

/**
 * Within each lane, layers that need no machine start first, then the longest, so that the others fill the time beside
 * them.
 */
const BY_LENGTH: readonly string[] = [
  'inprocess',
  'component',
  'proofs',
  'clients',
  'nested',
  'smoke',
  'vm',
  'e2e',
  'delays',
];

/** @param prepared layers that need the machine wait for it */
export async function sideBySide(
  layers: readonly Layer[],
  context: LayerContext,
  prepared: Promise<void>,
): Promise<readonly LayerResult[]> {
  const rank = ({ name }: Layer): number => BY_LENGTH.indexOf(name);
  const sorted = layers.toSorted((a, b) => rank(a) - rank(b));
  const wide = sorted.filter(({ isWide }) => isWide === true).map(whole);
  const isAlone = layers.length === 1;
  const others = sorted
    .filter(({ isWide }) => isWide !== true)
    .flatMap((layer) => (isAlone ? [whole(layer)] : partsOf(layer, context)));
  const lane = async (number: number, own: Unit[], then: Unit[]): Promise<readonly LayerResult[]> => {
    const { shell } = context;
    const inLane = { ...context, shell: { ...shell, env: { ...shell.env, [LANE_VARIABLE]: String(number) } } };
    const results: LayerResult[] = [];
    for (let unit = own.shift() ?? then.shift(); unit !== undefined; unit = own.shift() ?? then.shift()) {
      if (unit.layer.needsMachine === true) await prepared;
      results.push(await (isAlone ? runUnit(unit, inLane) : labeledRun(unit, inLane)));
    }
    return results;
  };
  const helpers = Array.from({ length: LANES - 1 }, (_, i) => lane(i + 2, others, []));
  const results = (await Promise.all([lane(1, wide, others), ...helpers])).flat();
  return sorted.flatMap(({ name }) => joined(results.filter(({ layer }) => layer === name)));
}

const whole = (layer: Layer): Unit => ({ layer, title: layer.name });

function partsOf(layer: Layer, { filters, times }: LayerContext): readonly Unit[] {
  if (layer.files === undefined || filters.length > 0) return [whole(layer)];
  const parts = groupsOf(layer.files(), times);
  return parts.map((files, i) => ({ layer, title: `${layer.name} (${i + 1} of ${parts.length})`, files }));
}

/** Groups of files with about the same duration, each with the longest first. */
export function groupsOf(files: readonly string[], times: Times): readonly (readonly string[])[] {
  const timed = files.map((file) => ({ file, ms: usualMs(times[file]) ?? UNKNOWN_MS }));
  const total = timed.reduce((ms, file) => ms + file.ms, 0);
  const groups = Array.from({ length: Math.max(1, Math.round(total / PART_MS)) }, () => ({
    files: [] as string[],
    ms: 0,
  }));
  for (const { file, ms } of timed.toSorted((a, b) => b.ms - a.ms)) {
    const group = groups.reduce((least, one) => (one.ms < least.ms ? one : least));
    group.files.push(file);
    group.ms += ms;
  }
  return groups.map((group) => group.files).filter((group) => group.length > 0);
}

/** One result for the parts of a layer. */
function joined(parts: readonly LayerResult[]): readonly LayerResult[] {
  const [first] = parts;
  if (first === undefined) return [];
  const tookMs = parts.reduce((ms, part) => ms + part.tookMs, 0);
  return [{ layer: first.layer, tookMs, outcome: sum(parts.map(({ outcome }) => outcome)) }];
}

async function labeledRun(unit: Unit, context: LayerContext): Promise<LayerResult> {
  const shell = labeled(context.shell, `${unit.layer.name} | `);
  try {
    return await runUnit(unit, { ...context, shell });
  } finally {
    shell.flush();
  }
}

export async function runUnit({ layer, title, files }: Unit, context: LayerContext): Promise<LayerResult> {
  const { shell } = context;
  shell.signal.throwIfAborted();
  const began = performance.now();
  shell.write(`\n== ${title}\n`);
  const outcome = await layer.run(files === undefined ? context : { ...context, filters: files });
  const tookMs = performance.now() - began;
  shell.write(`== ${title}: ${counts(outcome)} in ${duration(tookMs)}\n`);
  return { layer: layer.name, tookMs, outcome };
}
