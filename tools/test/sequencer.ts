/** Vitest starts the longest files first, by the durations of earlier runs on this machine. */
import { relative } from 'node:path';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { readTimes, TIMES_VARIABLE, usualMs } from './times.ts';

export default class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    // Vitest's own order applies to files without a duration, which come first: one of them may be the longest.
    const sorted = await super.sort(files);
    const path = process.env[TIMES_VARIABLE];
    const times = path === undefined ? {} : await readTimes(path);
    const root = this.ctx.config.root;
    const msOf = ({ moduleId }: TestSpecification): number =>
      usualMs(times[relative(root, moduleId)]) ?? Number.POSITIVE_INFINITY;
    return sorted.toSorted((a, b) => compare(msOf(b), msOf(a)));
  }
}

const compare = (a: number, b: number): number => (a === b ? 0 : a - b);
