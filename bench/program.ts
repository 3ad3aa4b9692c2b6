import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Finds an optional baseline program in PATH, then in `moreDirs`. */
export function findProgram(
  name: string,
  env: Readonly<Record<string, string | undefined>>,
  moreDirs: readonly string[] = [],
): string | null {
  const dirs = (env['PATH'] ?? '').split(delimiter).filter((dir) => dir !== '');
  return [...dirs, ...moreDirs].map((dir) => join(dir, name)).find((path) => existsSync(path)) ?? null;
}
