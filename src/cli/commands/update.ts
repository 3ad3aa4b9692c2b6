/** `neurovisor update`: changes a sandbox of the daemon while it runs. */
import type { ControlPlane, SandboxChange } from '../../sandbox/control.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { parseDuration, parsePairs } from '../options.ts';
import { sandboxId } from '../pick.ts';
import { type NetworkFlags, networkOptions, secretOptions } from '../sandbox-flags.ts';

export interface UpdateFlags extends NetworkFlags {
  readonly label: readonly string[];
  readonly timeout?: string;
}

/** Text: the id, as the other commands that change sandboxes print it. */
export async function update(
  cli: Cli,
  control: ControlPlane,
  id: string,
  flags: UpdateFlags,
): Promise<number> {
  const change = changeOf(flags, cli.env);
  const info = await control.update(await sandboxId(control, id), change);
  if (cli.json) cli.printJson(info);
  else cli.stdout.write(`${info.id}\n`);
  return 0;
}

/** @throws UsageError */
export function changeOf(flags: UpdateFlags, env: Cli['env'] = {}): SandboxChange {
  const { net, timeout, label } = flags;
  const network = networkOptions(flags);
  const change: SandboxChange = {
    ...secretOptions({ env }, flags),
    ...(net === 'none' ? { network: null } : network === undefined ? {} : { network }),
    ...(timeout === undefined
      ? {}
      : { timeoutMs: timeout === 'never' ? null : parseDuration(timeout) }),
    ...(label.length === 0 ? {} : { metadata: parsePairs(label, '--label') }),
  };
  if (Object.keys(change).length > 0) return change;
  throw new UsageError('nothing to change was named', 'neurovisor update --help');
}
