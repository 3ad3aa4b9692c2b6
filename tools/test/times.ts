/**
 * Durations of test files on this machine: the next run starts the longest first, and names files that take twice as
 * long as before. One JSON object in the home's cache, path → the last durations.
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { ignore } from '../../src/base/ignore.ts';
import type { FileTime } from './verdict.ts';

/** Path of a test file, relative to the checkout → its last durations, ms, the newest last. */
export type Times = Readonly<Record<string, readonly number[]>>;

/** Names the file for `sequencer.ts`, which runs in Vitest. */
export const TIMES_VARIABLE = 'NEUROVISOR_TEST_TIMES';
/** Durations kept per file. */
const KEPT = 5;
/** A file doubled if it took this many times its usual duration… */
const DOUBLED = 2;
/** … and this much longer, ms: short files vary with the load. */
const DOUBLED_MS_MIN = 10_000;

const schema = z.record(z.string(), z.array(z.number().min(0)).max(KEPT));

/** A missing or damaged list counts as empty: only the order of files depends on it. */
export async function readTimes(path: string): Promise<Times> {
  try {
    return schema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    ignore(error, 'no durations of earlier runs');
    return {};
  }
}

export function withTimes(times: Times, files: readonly FileTime[]): Times {
  const next: Record<string, readonly number[]> = { ...times };
  for (const { file, durationMs } of files) {
    next[file] = [...(next[file] ?? []), Math.round(durationMs)].slice(-KEPT);
  }
  return next;
}

/** With two concurrent runs, the durations of one of them are kept. */
export async function writeTimes(path: string, times: Times): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const beside = `${path}.${process.pid}`;
  await writeFile(beside, JSON.stringify(times));
  await rename(beside, path);
}

/** The median of the kept durations, ms. */
export function usualMs(durations: readonly number[] | undefined): number | undefined {
  if (durations === undefined) return undefined;
  return durations.toSorted((a, b) => a - b)[Math.floor((durations.length - 1) / 2)];
}

export interface Doubled extends FileTime {
  readonly usualMs: number;
}

/** Files that took twice as long as usual. */
export function doubledOf(times: Times, files: readonly FileTime[]): readonly Doubled[] {
  return files.flatMap((file) => {
    const usual = usualMs(times[file.file]);
    if (usual === undefined) return [];
    const { durationMs } = file;
    const isDoubled = durationMs > DOUBLED * usual && durationMs - usual > DOUBLED_MS_MIN;
    return isDoubled ? [{ ...file, usualMs: usual }] : [];
  });
}
