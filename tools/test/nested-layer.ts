/**
 * The nested layer: Linux guests under KVM in an emulated host. A green run counts until one of its inputs changes
 * (`nested-record.ts`).
 */
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { PACKAGE_DIR } from '../../src/base/package-dir.ts';
import { nestedParts } from '../../test/support/nested.ts';
import type { Shell } from './child.ts';
import { type LayerContext, NOTHING, vitestLayer } from './layer.ts';
import { nestedKey, nestedRecordPath, readNestedGreen, writeNestedGreen } from './nested-record.ts';
import { sum } from './summary.ts';
import type { Outcome } from './verdict.ts';

const NESTED_DIR = 'test/nested';
/** Both VMMs on one host. The other files have all cases, with a host each. */
const SMOKE = 'smoke.nested.test.ts';

export async function nestedTests(context: LayerContext): Promise<Outcome> {
  const { shell, cacheDir, isFull, filters } = context;
  const path = nestedRecordPath(cacheDir);
  const key = await nestedKey(PACKAGE_DIR, await versionsOfVmms(shell.env));
  // A named file is meant to run.
  if (!isFull && filters.length === 0) {
    const green = await readNestedGreen(path, key);
    if (green !== undefined) {
      const what = green.isFull ? 'all cases' : 'smoke';
      const reason = `green at ${key}, ${green.date}, and nothing it shows has changed since`;
      shell.write(`nested: ${reason}: ${what}, ${green.passed} passed\n`);
      return { ...NOTHING, skipped: 1, skips: [{ file: NESTED_DIR, test: what, reason }] };
    }
  }
  const outcomes: Outcome[] = [];
  for (const file of nestedFiles(context)) {
    const ofFile = { ...context, filters: [file], budget: null };
    const run = (): Promise<Outcome> => vitestLayer(['nested'], ofFile);
    outcomes.push(await onceMoreIfHostDied(shell, run));
  }
  const outcome = sum(outcomes);
  const isWhole = filters.length === 0 && outcome.failed === 0 && outcome.passed > 0;
  if (isWhole && outcome.skipped === 0) {
    const date = new Date().toISOString();
    await writeNestedGreen(path, { key, date, isFull, passed: outcome.passed });
  }
  return outcome;
}

function nestedFiles({ filters, isFull }: LayerContext): readonly string[] {
  return readdirSync(join(PACKAGE_DIR, NESTED_DIR))
    .filter((name) => filters.length > 0 || (name === SMOKE) !== isFull)
    .map((name) => join(NESTED_DIR, name))
    .filter((file) => filters.length === 0 || filters.some((part) => file.includes(part)));
}

/** A line for each program; without a nested host, the tests report why. */
async function versionsOfVmms(env: Shell['env']): Promise<string> {
  const parts = nestedParts(env);
  if (typeof parts === 'string') return parts;
  const lines: string[] = [];
  for (const program of [parts.firecracker, parts.jailer, 'qemu-system-x86_64']) {
    const { stdout } = await promisify(execFile)(program, ['--version']);
    lines.push(stdout.split('\n', 1).join(''));
  }
  return lines.join('\n');
}

/**
 * An emulated host can die of its own faults. Then its file runs once more, and reports that; any other failure is
 * final.
 */
export async function onceMoreIfHostDied(shell: Pick<Shell, 'write'>, run: () => Promise<Outcome>): Promise<Outcome> {
  const first = await run();
  const why = first.failures
    .flatMap(({ message }) => message.split('\n'))
    .find((line) => line.includes('NestedHostError'));
  if (why === undefined) return first;
  shell.write(`\n-- the nested host died, so its file runs once more: ${why.trim()}\n`);
  return await run();
}
