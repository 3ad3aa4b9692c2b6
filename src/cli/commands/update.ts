/** `neurovisor update`: changes a running sandbox of the daemon. */
import type { ControlPlane, MemoryAction, NetworkInfo, SandboxChange } from '../../sandbox/contract/control.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { parseDiskLimits } from '../flags/disk-limits.ts';
import { type BudgetFlags, parseBudget } from '../flags/model-budget.ts';
import { parseNetLimits } from '../flags/net-limits.ts';
import { parseDuration, parsePairs } from '../flags/options.ts';
import { type PackageFlags, packageChange } from '../flags/package-flags.ts';
import { sandboxId } from '../flags/pick.ts';
import * as ranges from '../flags/ranges.ts';
import { channelOptions, type NetworkFlags, networkOptions, secretOptions } from '../flags/sandbox-flags.ts';

export interface UpdateFlags extends NetworkFlags, PackageFlags, BudgetFlags {
  readonly label: readonly string[];
  readonly diskLimit?: readonly string[];
  readonly rate?: string;
  readonly timeout?: string;
  readonly memory?: string;
  readonly onMemoryPressure?: string;
}

/** Text: prints the ID, like the other commands that change sandboxes. */
export async function update(cli: Cli, control: ControlPlane, id: string, flags: UpdateFlags): Promise<number> {
  const whole = await sandboxId(control, id);
  const budget = parseBudget(flags);
  const models = budget === undefined ? {} : { models: { budget } };
  const change = isOnlyLimits(flags)
    ? { ...limitsOf(flags, (await control.get(whole)).network, cli.env), ...models }
    : changeOf(flags, cli.env, models);
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
  const limits = parseNetLimits(flags.netLimit ?? []);
  const { netLimit: _parsed, ...rest } = flags;
  const { label, timeout, onMemoryPressure, memory, rate, diskLimit = [] } = rest;
  const named = [timeout, onMemoryPressure, memory, rate].some((flag) => flag !== undefined);
  const hasPackages = Object.keys(packageChange(rest)).length > 0;
  const isMore = label.length > 0 || named || diskLimit.length > 0 || hasPackages;
  const others = isMore ? changeOf(rest, env) : {};
  return { ...others, network: { mode, allow, deny, limits } };
}

/** @param more what else changes. @throws UsageError */
export function changeOf(flags: UpdateFlags, env: Cli['env'] = {}, more: SandboxChange = {}): SandboxChange {
  const { net, timeout, label, onMemoryPressure, memory } = flags;
  const network = networkOptions(flags);
  const diskLimits = parseDiskLimits(flags.diskLimit ?? []);
  const change: SandboxChange = {
    ...more,
    ...secretOptions({ env }, flags),
    ...(net === 'none' ? { network: null } : network === undefined ? {} : { network }),
    ...(timeout === undefined ? {} : { timeoutMs: timeout === 'never' ? null : parseDuration(timeout) }),
    ...(memory === undefined ? {} : { memoryMib: ranges.memory(memory) }),
    // Validated by the control plane, which knows its capabilities.
    ...(onMemoryPressure === undefined ? {} : { onMemoryPressure: onMemoryPressure as MemoryAction }),
    ...(diskLimits === undefined ? {} : { diskLimits }),
    ...channelOptions(flags),
    ...packageChange(flags),
    ...(label.length === 0 ? {} : { metadata: parsePairs(label, '--label') }),
  };
  if (Object.keys(change).length > 0) return change;
  throw new UsageError('nothing to change', 'add an option: see neurovisor update --help');
}
