/** `--secret NAME@HOST[,HOST…][:PLACE[,PLACE…]][=FILE]`: parses it and reads the value. */
import { readFileSync } from 'node:fs';
import { describeError } from '../../base/errors.ts';
import type { SecretPlace } from '../../base/request/secret-place.ts';
import type { SecretOptions } from '../../sandbox/contract/secrets.ts';
import { UsageError } from '../failure.ts';

const HOW =
  'use --secret NAME@api.example.com with NAME set in the environment or stored (neurovisor secret create NAME), or --secret NAME@host=FILE; for a place other than the credential fields, --secret NAME@host:header=FIELD or NAME@host:query=PARAMETER';
const HOST = '[^=,:]+(?::\\d+)?';
const PLACE = '(?:header|query)=[^=,]+';
const SECRET = new RegExp(
  `^([A-Za-z_][A-Za-z0-9_]*)@(${HOST}(?:,${HOST})*)(?::(${PLACE}(?:,${PLACE})*))?(?:=(.+))?$`,
  's',
);

/**
 * Without a value, the secret is the stored one of its name.
 *
 * Values come from the environment or from files, never from the command line, which other users can read.
 * @throws UsageError that never contains a value
 */
export function parseSecrets(
  texts: readonly string[],
  hostEnv: Readonly<Record<string, string | undefined>>,
): readonly SecretOptions[] {
  const secrets = new Map<string, SecretOptions>();
  for (const text of texts) {
    const match = SECRET.exec(text);
    const [, name = '', hosts = '', places, file] = match ?? [];
    // The text may contain the value, so the message does not repeat it.
    if (match === null) throw new UsageError('--secret: expected NAME@host', HOW);
    if (secrets.has(name)) {
      throw new UsageError(`--secret ${name} is given twice`, `use --secret ${name}@a.example,b.example`);
    }
    const value = file === undefined ? hostEnv[name] : contentOf(name, file);
    const where = places === undefined ? {} : { places: places.split(',').map(placeOf) };
    secrets.set(name, {
      name,
      hosts: hosts.split(','),
      ...where,
      ...(value === undefined ? { stored: name } : { value }),
    });
  }
  return [...secrets.values()];
}

function placeOf(text: string): SecretPlace {
  const [kind, name = ''] = text.split('=');
  return { in: kind === 'query' ? 'query' : 'header', name };
}

/** Drops the final newline that editors add. */
function contentOf(name: string, path: string): string {
  try {
    return readFileSync(path, 'utf8').replace(/\r?\n$/, '');
  } catch (error) {
    throw new UsageError(`--secret ${name}: ${describeError(error)}`, HOW);
  }
}
