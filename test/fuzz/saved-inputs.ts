/** Inputs of fuzz targets that once failed: kept in `test/fixtures/regressions/<target>.json`, replayed first. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { deserialize, serialize } from 'node:v8';
import fc from 'fast-check';
import type { FuzzTarget } from './target.ts';

/** An input that failed once. */
interface Regression {
  /** For people. */
  readonly text: string;
  /** The input itself: V8's serialization in base64, which keeps byte arrays, bigints and undefined. */
  readonly input: string;
}

const DIR = join(import.meta.dirname, '..', 'fixtures', 'regressions');
const TEXT_MAX = 4000;

export const regressionPath = (name: string, dir: string = DIR): string =>
  join(dir, `${name}.json`);

const encoded = (input: unknown): string => serialize(input).toString('base64');

export function savedInputs(name: string, dir?: string): readonly unknown[] {
  const path = regressionPath(name, dir);
  if (!existsSync(path)) return [];
  const saved = JSON.parse(readFileSync(path, 'utf8')) as readonly Regression[];
  return saved.map(({ input }) => deserialize(Buffer.from(input, 'base64')) as unknown);
}

/** @returns the path of the file with the input */
export function saveInput(name: string, input: unknown, dir?: string): string {
  const path = regressionPath(name, dir);
  const all = [...savedInputs(name, dir), input];
  const regressions = new Map(
    all.map((each): [string, Regression] => {
      const bytes = encoded(each);
      return [bytes, { text: fc.stringify(each).slice(0, TEXT_MAX), input: bytes }];
    }),
  );
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify([...regressions.values()], null, 2)}\n`);
  return path;
}

/** Every saved input, before any new one. */
export function replay(target: FuzzTarget, dir?: string): void {
  for (const [index, input] of savedInputs(target.name, dir).entries()) {
    try {
      target.check(input);
    } catch (error) {
      const at = `input ${index} of ${regressionPath(target.name, dir)}`;
      throw new Error(`${target.name}: ${at} fails again: ${fc.stringify(input)}`, {
        cause: error,
      });
    }
  }
}
