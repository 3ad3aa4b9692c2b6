/** Options that `run` and `create` share: what a sandbox is made with. */
import type { ModelPolicy, SandboxOptions } from '../sandbox/spec.ts';
import type { Cli } from './cli.ts';
import { parseAliases, parseEnv, parseRate } from './options.ts';
import * as ranges from './ranges.ts';

export interface SandboxFlags {
  readonly env: readonly string[];
  readonly warm: readonly string[];
  readonly alias: readonly string[];
  readonly allowModel: readonly string[];
  readonly cpus?: number;
  readonly memory?: string;
  readonly disk?: string;
  readonly rate?: string;
}

/** @throws UsageError */
export function sandboxOptions(
  cli: Pick<Cli, 'env'>,
  flags: SandboxFlags,
  model: Partial<ModelPolicy>,
): SandboxOptions {
  const rate = flags.rate === undefined ? undefined : parseRate(flags.rate);
  const bucket = rate === undefined ? undefined : { size: rate, refillPerSecond: rate };
  return {
    ...sizeOptions(flags),
    env: parseEnv(flags.env, cli.env),
    warm: flags.warm,
    models: {
      ...model,
      aliases: parseAliases(flags.alias),
      ...(flags.allowModel.length === 0 ? {} : { allow: flags.allowModel }),
    },
    ...(bucket === undefined
      ? {}
      : { channelLimits: { guestToHostBytes: bucket, hostToGuestBytes: bucket } }),
  };
}

/** @throws UsageError */
export function sizeOptions(
  flags: Pick<SandboxFlags, 'cpus' | 'memory' | 'disk'>,
): Pick<SandboxOptions, 'cpus' | 'memoryMib' | 'diskMib'> {
  return {
    cpus: flags.cpus,
    memoryMib: flags.memory === undefined ? undefined : ranges.memory(flags.memory),
    diskMib: flags.disk === undefined ? undefined : ranges.disk(flags.disk),
  };
}
