import { keptInputs, keptPath } from './kept-inputs.ts';
import type { FuzzTarget } from './target.ts';

/**
 * Runs every kept input of a target, the crashers first.
 * @returns what the first failure is, for people
 */
export async function replay(target: FuzzTarget, dir?: string): Promise<string | undefined> {
  for (const kind of ['crashers', 'corpus'] as const) {
    for (const [index, bytes] of keptInputs(kind, target.name, dir).entries()) {
      try {
        await target.check(bytes);
      } catch (error) {
        const place = `line ${index + 1} of ${keptPath(kind, target.name, dir)}`;
        const text = error instanceof Error ? error.stack : String(error);
        return `${target.name}: ${place} fails: ${target.describe(bytes)}\n${text}`;
      }
    }
  }
  return undefined;
}
