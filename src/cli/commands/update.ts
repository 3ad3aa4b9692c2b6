/** `neurovisor update`: changes a running sandbox of the daemon. */
import type { ControlPlane, NetworkInfo, SandboxChange } from '../../sandbox/contract/control.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { CHANGES } from '../flags/change-fields.ts';
import { readFields } from '../flags/field.ts';
import { type NetworkFlags, parseNetLimits } from '../flags/network-fields.ts';
import { sandboxId } from '../flags/pick.ts';

/** Beside those of the network only `CHANGES` reads the options. */
export interface UpdateFlags extends NetworkFlags {
  readonly [option: string]: unknown;
}

/** Text: prints the ID, like the other commands that change sandboxes. */
export async function update(cli: Cli, control: ControlPlane, id: string, flags: UpdateFlags): Promise<number> {
  const whole = await sandboxId(control, id);
  const change = isOnlyLimits(flags)
    ? limitsOf(flags, (await control.get(whole)).network, cli.env)
    : changeOf(flags, cli.env);
  const info = await control.update(whole, change);
  if (cli.json) cli.printJson(info);
  else cli.stdout.write(`${info.id}\n`);
  return 0;
}

/** Only limits change; the rules stay. */
function isOnlyLimits({ net, allowOut, denyOut, netLimit = [] }: UpdateFlags): boolean {
  return netLimit.length > 0 && net === undefined && allowOut.length + denyOut.length === 0;
}

/** @param network the current network. @throws UsageError */
export function limitsOf(flags: UpdateFlags, network: NetworkInfo | null, env: Cli['env'] = {}): SandboxChange {
  if (network === null) {
    throw new UsageError('the sandbox has no network to limit', 'add --net open or --allow-out');
  }
  const { mode, allow, deny } = network;
  const { netLimit = [], ...others } = flags;
  return { ...readFields(CHANGES, others, env), network: { mode, allow, deny, limits: parseNetLimits(netLimit) } };
}

/** @throws UsageError */
export function changeOf(flags: UpdateFlags, env: Cli['env'] = {}): SandboxChange {
  const change = readFields(CHANGES, flags, env);
  if (Object.keys(change).length > 0) return change;
  throw new UsageError('nothing to change', 'add an option: see neurovisor update --help');
}
