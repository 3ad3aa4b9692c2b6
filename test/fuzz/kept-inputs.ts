/**
 * Inputs kept in the repository, one a line in base64: in `corpus/` those from which the fuzzer starts, in `crashers/` those
 * that showed a bug once. The ordinary tests run all of them.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

export type InputKind = 'corpus' | 'crashers';

export const keptPath = (kind: InputKind, name: string, dir: string = import.meta.dirname): string =>
  join(dir, kind, `${name}.txt`);

export function keptInputs(kind: InputKind, name: string, dir?: string): readonly Uint8Array[] {
  const path = keptPath(kind, name, dir);
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n').slice(0, -1);
  return lines.map((line) => Buffer.from(line, 'base64'));
}

/** @returns the path of the file */
export function keepInputs(kind: InputKind, name: string, inputs: readonly Uint8Array[], dir?: string): string {
  const path = keptPath(kind, name, dir);
  mkdirSync(dirname(path), { recursive: true });
  const lines = new Set(inputs.map((bytes) => `${Buffer.from(bytes).toString('base64')}\n`));
  writeFileSync(path, [...lines].join(''));
  return path;
}

/** Adds an input that showed a bug. */
export function keepCrasher(name: string, bytes: Uint8Array, dir?: string): string {
  return keepInputs('crashers', name, [...keptInputs('crashers', name, dir), bytes], dir);
}
