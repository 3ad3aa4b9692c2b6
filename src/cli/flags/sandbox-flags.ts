/** Options of a new sandbox, shared by `run` and `create`. */
import type { ModelCache, ModelPriority } from '../../base/request/model-limits.ts';
import { isFieldPath } from '../../base/text/field-path.ts';
import type { ModelPolicy } from '../../sandbox/contract/model-policy.ts';
import type { NetworkOptions } from '../../sandbox/contract/network-spec.ts';
import type { SecretOptions } from '../../sandbox/contract/secrets.ts';
import type { SandboxOptions } from '../../sandbox/contract/spec.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { parseDiskLimits } from './disk-limits.ts';
import type { BuildFlags, ImageFlags } from './image-flag.ts';
import { type BudgetFlags, parseBudget } from './model-budget.ts';
import { parseNetLimits } from './net-limits.ts';
import { parseAliases, parseEnv } from './options.ts';
import { type PackageFlags, packageOptions } from './package-flags.ts';
import * as ranges from './ranges.ts';
import type { RequirementFlags } from './requirement-flags.ts';
import { parseSecrets } from './secret-flags.ts';

export interface NetworkFlags {
  readonly net?: NetChoice;
  readonly allowOut: readonly string[];
  readonly denyOut: readonly string[];
  readonly netLimit?: readonly string[];
  readonly secret?: readonly string[];
}

export interface SandboxFlags
  extends NetworkFlags,
    PackageFlags,
    RequirementFlags,
    ImageFlags,
    BuildFlags,
    BudgetFlags {
  readonly env: readonly string[];
  readonly warm: readonly string[];
  readonly alias: readonly string[];
  readonly allowModel: readonly string[];
  readonly allowHosted?: readonly string[];
  readonly allowField?: readonly string[];
  readonly modelPriority?: ModelPriority;
  readonly modelCache?: ModelCache;
  readonly template?: string;
  /** Instead of a clone. */
  readonly boot?: boolean;
  readonly cpus?: number;
  readonly memory?: string;
  readonly memoryMax?: string;
  readonly disk?: string;
  readonly rate?: string;
  readonly diskLimit?: readonly string[];
}

/** `egress` is the mode `allowlist`. */
export type NetChoice = 'none' | 'egress' | 'open';

/** @throws UsageError */
export function sandboxOptions(
  cli: Pick<Cli, 'env'>,
  flags: SandboxFlags,
  model: Partial<ModelPolicy>,
): SandboxOptions {
  const diskLimits = parseDiskLimits(flags.diskLimit ?? []);
  const budget = parseBudget(flags);
  return {
    ...sizeOptions(flags),
    env: parseEnv(flags.env, cli.env),
    warm: flags.warm,
    models: {
      ...model,
      aliases: parseAliases(flags.alias),
      ...(flags.allowModel.length === 0 ? {} : { allow: flags.allowModel }),
      ...(flags.allowHosted === undefined || flags.allowHosted.length === 0 ? {} : { allowHosted: flags.allowHosted }),
      ...allowedFields(flags),
      ...(flags.modelPriority === undefined ? {} : { priority: flags.modelPriority }),
      ...(budget === undefined ? {} : { budget }),
      ...(flags.modelCache === undefined ? {} : { cache: flags.modelCache }),
    },
    ...packageOptions(flags),
    network: networkOptions(flags),
    ...secretOptions(cli, flags),
    ...channelOptions(flags),
    ...(diskLimits === undefined ? {} : { diskLimits }),
  };
}

/**
 * `--template`: the control plane compares the options with what the template fixes; an image would be pulled or built
 * before.
 * @throws UsageError
 */
export function templateOption({
  template,
  image,
  build,
  boot,
}: Pick<SandboxFlags, 'template' | 'image' | 'build' | 'boot'>): { readonly template?: string } {
  if (image !== undefined && build !== undefined)
    throw new UsageError('--build and --image are mutually exclusive', 'omit one of them');
  if (template === undefined) return {};
  if (boot === true) throw new UsageError('--template and --boot are mutually exclusive', 'omit one of them');
  if (build !== undefined) throw new UsageError('--template and --build are mutually exclusive', 'omit one of them');
  if (image === undefined) return { template };
  throw new UsageError('--template and --image are mutually exclusive', 'omit one of them');
}

/** `--rate`: each direction may send a second's bytes at once. `none`: no limits. @throws UsageError */
export function channelOptions({ rate: text }: Pick<SandboxFlags, 'rate'>): Pick<SandboxOptions, 'channelLimits'> {
  if (text === undefined) return {};
  if (text === 'none') return { channelLimits: {} };
  const rate = ranges.rate(text);
  const bucket = { size: rate, refillPerSecond: rate };
  return { channelLimits: { guestToHostBytes: bucket, hostToGuestBytes: bucket } };
}

function allowedFields({ allowField = [] }: SandboxFlags): Partial<ModelPolicy> {
  return allowField.length === 0 ? {} : { allowFields: checkedFields(allowField) };
}

/** The values of `--allow-field`. @throws UsageError */
export function checkedFields(paths: readonly string[]): readonly string[] {
  const wrong = paths.find((path) => !isFieldPath(path));
  if (wrong === undefined) return paths;
  throw new UsageError(
    `invalid field "${wrong.slice(0, 80)}" for --allow-field`,
    'name it as the error does, for example enable_search or messages.content.uuid',
  );
}

/** Rules without a mode imply `egress`. @throws UsageError */
export function networkOptions(flags: NetworkFlags): NetworkOptions | undefined {
  const { allowOut: allow, denyOut: deny, secret = [] } = flags;
  const hasRules = allow.length + deny.length > 0;
  if (flags.net === 'none' && secret.length > 0) {
    throw new UsageError('--net none and --secret are mutually exclusive', 'omit one of them');
  }
  const { net = hasRules ? 'egress' : 'none' } = flags;
  const limits = ranges.withOption('--net-limit', () => parseNetLimits(flags.netLimit ?? []));
  const limited = limits === undefined ? {} : { limits };
  if (net === 'open') return { mode: 'open', allow, deny, ...limited };
  if (net === 'egress') {
    if (allow.length + secret.length > 0) {
      return { mode: 'allowlist', allow, deny, ...limited };
    }
    if (flags.net === undefined) {
      throw new UsageError(
        '--deny-out alone blocks everything: rules without --net imply --net egress',
        'add --net open, or --allow-out for each allowed destination',
      );
    }
    throw new UsageError(
      '--net egress without --allow-out blocks everything',
      'add for example --allow-out pypi.org, or use --net open',
    );
  }
  if (!hasRules && limits !== undefined) {
    throw new UsageError('--net-limit needs a network', 'add --net open or --allow-out');
  }
  if (!hasRules) return undefined;
  throw new UsageError('--net none excludes --allow-out and --deny-out', 'omit one of them');
}

/** Returns no field without secrets. @throws UsageError */
export function secretOptions(
  cli: Pick<Cli, 'env'>,
  { secret = [] }: NetworkFlags,
): { readonly secrets?: readonly SecretOptions[] } {
  return secret.length === 0 ? {} : { secrets: parseSecrets(secret, cli.env) };
}

/** @throws UsageError */
export function sizeOptions(
  flags: Pick<SandboxFlags, 'cpus' | 'memory' | 'memoryMax' | 'disk'>,
): Pick<SandboxOptions, 'cpus' | 'memoryMib' | 'memoryMaxMib' | 'diskMib'> {
  const { memoryMax } = flags;
  return {
    cpus: flags.cpus,
    memoryMib: flags.memory === undefined ? undefined : ranges.memory(flags.memory),
    ...(memoryMax === undefined ? {} : { memoryMaxMib: ranges.memoryMax(memoryMax) }),
    diskMib: flags.disk === undefined ? undefined : ranges.disk(flags.disk),
  };
}
