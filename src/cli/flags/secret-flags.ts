/** `--secret NAME@host`: parses it and reads the value. */
import { readFileSync } from 'node:fs';
import { describeError } from '../../base/errors.ts';
import type { SecretOptions } from '../../sandbox/secrets.ts';
import { UsageError } from '../failure.ts';

const HOW =
  'use --secret NAME@api.example.com with NAME set in the environment, or --secret NAME@host=FILE';

/**
 * Values come from the environment or from files, never from the command line, which other users can read.
 * @throws UsageError that never contains a value
 */
export function parseSecrets(
  texts: readonly string[],
  hostEnv: Readonly<Record<string, string | undefined>>,
): readonly SecretOptions[] {
  const secrets = new Map<string, SecretOptions>();
  for (const text of texts) {
    const match = /^([A-Za-z_][A-Za-z0-9_]*)@([^=]+)(?:=(.+))?$/s.exec(text);
    const [, name = '', places = '', file] = match ?? [];
    // The text may contain the value, so the message does not repeat it.
    if (match === null) throw new UsageError('--secret: expected NAME@host', HOW);
    if (secrets.has(name)) {
      throw new UsageError(
        `--secret ${name} is given twice`,
        `use --secret ${name}@a.example,b.example`,
      );
    }
    const value = file === undefined ? hostEnv[name] : contentOf(name, file);
    if (value === undefined)
      throw new UsageError(`--secret ${name}: variable is not set in this environment`, HOW);
    secrets.set(name, { name, hosts: places.split(','), value });
  }
  return [...secrets.values()];
}

/** Drops the final newline that editors add. */
function contentOf(name: string, path: string): string {
  try {
    return readFileSync(path, 'utf8').replace(/\r?\n$/, '');
  } catch (error) {
    throw new UsageError(`--secret ${name}: ${describeError(error)}`, HOW);
  }
}
