/** Runs one action on several sandboxes or snapshots; each has its own outcome. */
import { CodedError, describeError } from '../../base/errors.ts';
import type { Cli } from '../cli.ts';
import { failureText } from '../failure.ts';

type Outcome<T> =
  | ({ readonly ok: true; readonly id: string } & T)
  | { readonly ok: false; readonly id: string; readonly code: string; readonly message: string };

/**
 * Prints the ID of each success on stdout, and each failure with its remedy on stderr.
 * @returns 1 if one failed
 */
export async function forEach<T extends object>(
  cli: Cli,
  ids: readonly string[],
  action: (id: string) => Promise<T>,
): Promise<number> {
  const unique = [...new Set(ids)];
  const all = Promise.all(unique.map((id) => outcomeOf(cli, id, action)));
  const outcomes = await cli.unlessCancelled(all);
  if (cli.json) cli.printJson(outcomes);
  else for (const { ok, id } of outcomes) if (ok) cli.stdout.write(`${id}\n`);
  return outcomes.every(({ ok }) => ok) ? 0 : 1;
}

/** Reports a failure on stderr, except for JSON. */
export async function outcomeOf<T extends object>(
  cli: Cli,
  id: string,
  action: (id: string) => Promise<T>,
): Promise<Outcome<T>> {
  try {
    return { ok: true, id, ...(await action(id)) };
  } catch (error) {
    if (!cli.json) cli.stderr.write(`${failureText(error)}\n`);
    const code = error instanceof CodedError ? error.code : 'internal';
    return { ok: false, id, code, message: describeError(error) };
  }
}
