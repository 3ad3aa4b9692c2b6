/** The skeleton of most benchmarks: rounds in which each way is measured in turn, so that all see the same disturbances. */
import type { BenchContext, Measurement } from './benchmark.ts';

type Values = Readonly<Record<string, number | readonly number[]>>;
/** Measures one round: its value or values of each figure; `undefined` if it failed. `null`: no such way here. */
type Way = ((round: number) => Promise<Values | undefined>) | null;
type FigureOf<W extends Way> = W extends (round: number) => Promise<infer V> ? keyof NonNullable<V> : never;
/** The samples of a figure, in order of measurement. */
export type Samples<Figure> = (figure: Figure) => readonly number[];
type SamplesOf<Ways extends Readonly<Record<string, Way>>> = {
  readonly [Name in keyof Ways]: Samples<FigureOf<Exclude<Ways[Name], null>>>;
};

type RoundContext = Pick<BenchContext, 'rounds' | 'signal' | 'say'>;

interface RoundOptions {
  /** A round 0 before the others fills caches and is not counted. Default: true */
  readonly warmUp?: boolean;
}

/** @param label of the progress: what is measured */
export async function compare<const Ways extends Readonly<Record<string, Way>>>(
  context: RoundContext,
  label: string,
  ways: Ways,
  { warmUp = true }: RoundOptions = {},
): Promise<SamplesOf<Ways>> {
  const { rounds, signal, say } = context;
  const all = Object.entries(ways).map(([name, way]) => ({ name, way, samples: new Map<string, number[]>() }));
  for (let round = warmUp ? 0 : 1; round <= rounds; round += 1) {
    say(`${label} ${round} of ${rounds}`);
    signal.throwIfAborted();
    for (const { way, samples } of all) {
      const values = await way?.(round);
      if (round === 0 || values === undefined) continue;
      for (const [figure, value] of Object.entries(values))
        samples.set(figure, (samples.get(figure) ?? []).concat(value));
    }
  }
  const read = all.map(({ name, samples }) => [name, (figure: string) => samples.get(figure) ?? []]);
  return Object.fromEntries(read) as SamplesOf<Ways>;
}

/** Makes rows of one unit. @param baseline its name and samples */
export const rowsOf =
  (unit: Measurement['unit'], accelerator: string) =>
  (
    name: string,
    samples: readonly number[],
    baseline: readonly [name: string, samples: readonly number[]] | null,
    more: Pick<Measurement, 'failed' | 'note'> = {},
  ): Measurement => ({
    name,
    unit,
    accelerator,
    samples,
    baseline: baseline === null ? null : { name: baseline[0], samples: baseline[1] },
    ...more,
  });
