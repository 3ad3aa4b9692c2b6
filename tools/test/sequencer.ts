/** Vitest starts the longest files first, by the durations of earlier runs on this machine. */
import { readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { ignore } from '../../src/base/ignore.ts';
import { TIMES_VARIABLE, type Times, usualMs } from './times.ts';

export default class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    // Vitest's own order stays for files without a duration, which come first: one of them may be the longest.
    const sorted = await super.sort(files);
    const times = timesFrom(process.env[TIMES_VARIABLE]);
    const root = this.ctx.config.root;
    const msOf = ({ moduleId }: TestSpecification): number =>
      usualMs(times[relative(root, moduleId)]) ?? Number.POSITIVE_INFINITY;
    return sorted.toSorted((a, b) => compare(msOf(b), msOf(a)));
  }
}

const compare = (a: number, b: number): number => (a === b ? 0 : a - b);

function timesFrom(path: string | undefined): Times {
  if (path === undefined) return {};
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Times;
  } catch (error) {
    ignore(error, 'no durations of earlier runs');
    return {};
  }
}
