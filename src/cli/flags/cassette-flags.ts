/** `--record FILE` and `--replay FILE`. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { CassetteChoice, Config } from '../../base/config.ts';
import { UsageError } from '../failure.ts';

export interface CassetteFlags {
  readonly record?: string;
  readonly replay?: string;
}

/** The choice of the flags, else that of the environment. @throws UsageError */
export function cassetteChoice(
  { record, replay }: CassetteFlags,
  { cassette }: Pick<Config, 'cassette'>,
): CassetteChoice | null {
  if (record !== undefined && replay !== undefined) {
    throw new UsageError('--record and --replay are mutually exclusive', 'omit one of them');
  }
  const path = record ?? replay;
  if (path === undefined) return cassette;
  if (path === '') {
    const option = record === undefined ? '--replay' : '--record';
    throw new UsageError(`${option} needs the path of a file`, `use ${option} FILE`);
  }
  if (replay !== undefined && !existsSync(replay)) {
    const remedy = `record it first: neurovisor run --record ${replay}`;
    throw new UsageError(`the cassette ${replay} does not exist`, remedy);
  }
  return { mode: record === undefined ? 'replay' : 'record', path: resolve(path) };
}
