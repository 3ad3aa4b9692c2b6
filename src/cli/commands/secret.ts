/** `neurovisor secret`: secrets that outlive sandboxes. */
import { readFileSync } from 'node:fs';
import { systemClock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import { RANGES, STORED_SECRET_FAULT, STORED_SECRET_REFERENCE } from '../../sandbox/contract/limits.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { coarse, table } from '../output/table.ts';
import { readHidden } from './context.ts';
import { forEach } from './many.ts';

export interface SecretFlags {
  readonly fromEnv?: string;
  readonly fromFile?: string;
  readonly replace?: boolean;
}

/** @throws UsageError */
export function checkSecret(name: string): void {
  if (!STORED_SECRET_REFERENCE.test(name)) throw new UsageError(`name of a secret: ${STORED_SECRET_FAULT}`);
}

export async function secretCreate(cli: Cli, control: ControlPlane, name: string, flags: SecretFlags): Promise<number> {
  const value = await readValue(cli, name, flags);
  const info = await cli.unlessCancelled(control.secrets.set({ name, value, replace: flags.replace }));
  if (cli.json) cli.printJson(info);
  else cli.stdout.write(`${info.name}\n`);
  return 0;
}

/** Never from the command line, which other users can read. @throws UsageError that never contains the value */
async function readValue(cli: Cli, name: string, { fromEnv, fromFile }: SecretFlags): Promise<string> {
  if (fromEnv !== undefined) {
    const value = cli.env[fromEnv];
    if (value !== undefined) return value;
    throw new UsageError(`--from-env ${fromEnv}: variable is not set in this environment`);
  }
  const text = fromFile === undefined ? await readHidden(cli, `Value of ${name}: `, BYTES_MAX) : contentOf(fromFile);
  // Editors and echo add a final newline.
  return text.replace(/\r?\n$/, '');
}

function contentOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new UsageError(`--from-file: ${describeError(error)}`);
  }
}

/** With the newline; the host judges the length. */
const BYTES_MAX = 2 * RANGES.secretCharacters.max;

export async function secretList(cli: Cli, control: ControlPlane): Promise<number> {
  const list = await control.secrets.list();
  if (cli.json) cli.printJson(list);
  else {
    const now = systemClock.wall();
    const rows = list.map(({ name, createdAtMs, updatedAtMs, sandboxes }) => [
      name,
      coarse(now - createdAtMs),
      coarse(now - updatedAtMs),
      sandboxes.join(', ') || '-',
    ]);
    cli.stdout.write(`${table(['name', 'age', 'value age', 'used by'], rows)}\n`);
  }
  return 0;
}

export async function secretRemove(
  cli: Cli,
  control: ControlPlane,
  names: readonly string[],
  { force = false }: { readonly force?: boolean },
): Promise<number> {
  return await forEach(cli, names, async (name) => {
    await control.secrets.remove(name, force);
    return {};
  });
}
