/** Defines a layer of the tests: a name, its needs, and how it runs. */
import type { Shell } from './child.ts';
import { type Failure, titleOf } from './report.ts';
import type { Times } from './times.ts';
import { type Outcome, type UnsteadyBudget, verdictOf } from './verdict.ts';
import { vitestIn } from './vitest.ts';

export interface LayerContext {
  readonly shell: Shell;
  readonly seed: number;
  /** The runner's part of the home's cache. */
  readonly cacheDir: string;
  /** Includes tests that take too long for each run. */
  readonly isFull: boolean;
  /** Parts of paths that Vitest's files must contain; if empty, all files. */
  readonly filters: readonly string[];
  /** Durations of earlier runs. */
  readonly times: Times;
  readonly budget: UnsteadyBudget;
}

export interface Layer {
  readonly name: string;
  readonly stage: 'gate' | 'machine';
  /** True if `./neurovisor test` without words omits it. */
  readonly isExtra?: boolean;
  /** True if other programs take part, or VMs are booted: the machine must be set up first. */
  readonly needsMachine?: boolean;
  /** Uses as many processes as there are processors, so no other such layer runs beside it. */
  readonly isWide?: boolean;
  /** Its files take longer than usual, which must not affect their recorded durations. */
  readonly isDelayed?: boolean;
  /** Its files, relative to the checkout: any lane may run some of them. Without it, one lane runs the layer. */
  files?(): readonly string[];
  run(context: LayerContext): Promise<Outcome>;
}

export const NOTHING: Outcome = { passed: 0, failed: 0, skipped: 0, failures: [], unsteady: [], skips: [], files: [] };

export function vitestLayer(
  projects: readonly string[],
  context: Omit<LayerContext, 'budget'> & { readonly budget: UnsteadyBudget | null },
  args: readonly string[] = [],
): Promise<Outcome> {
  const { shell, seed, filters, budget } = context;
  const onRerun = (file: string, round: number): void => shell.write(`\n-- rerun ${round} of what failed in ${file}\n`);
  const onUnsteady = (failure: Failure): void => shell.write(`\n-- UNSTEADY: ${titleOf(failure)}\n`);
  const request = { projects, filters };
  return verdictOf(vitestIn(shell, seed, { args }), request, { budget, onRerun, onUnsteady });
}
