/** What a step of a build gives to the VM of its stage. */
import type { ImageConfig } from '../oci/documents.ts';
import type { CopyStep } from './evaluate.ts';
import { digest, type StepKey } from './keys.ts';
import { type PlannedStep, sourceName } from './plan.ts';
import type { StageVm } from './stage-vm.ts';

/** The user and directory of our environments, unless the Dockerfile says others. */
export function withUser(config: ImageConfig): ImageConfig {
  const { user, workdir } = config;
  return { ...config, user: user || 'user', workdir: workdir === '/' ? '/home/user' : workdir };
}

export function copyPlan(
  step: CopyStep,
  named: readonly string[],
  numbers: ReadonlyMap<string, number>,
): Parameters<StageVm['copy']>[0] {
  const { target, owner, mode, extracts, sources: patterns } = step;
  const from = step.from === null ? null : (numbers.get(sourceName(step.from)) ?? null);
  return { from, patterns, named, target, owner, mode, extracts, packed: 'context' };
}

/**
 * One disk for all ids of a stage, wherever its cached steps end. One for each context: a build could poison what others
 * install from it.
 * @param origin where the files of the context are from: a directory of this machine or, never equal, a client's
 * @param rest steps that run
 */
export function cachesKey(origin: string, all: readonly PlannedStep[], rest: readonly PlannedStep[]): StepKey | null {
  const idsOf = (steps: readonly PlannedStep[]): readonly string[] =>
    steps
      .flatMap(({ step }) => (step.kind === 'run' ? step.mounts : []))
      .flatMap((mount) => (mount.type === 'cache' ? [mount.id] : []));
  if (idsOf(rest).length === 0) return null;
  return digest({ contextDir: origin, ids: [...new Set(idsOf(all))].toSorted() });
}
