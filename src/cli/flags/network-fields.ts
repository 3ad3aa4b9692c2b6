/** Options about the network of a sandbox, and the secrets that it uses there. */

import type { CreateRequest } from '../../sandbox/contract/control.ts';
import { RANGES } from '../../sandbox/contract/limits.ts';
import type { NetworkLimits, NetworkOptions } from '../../sandbox/contract/network-spec.ts';
import type { SecretOptions } from '../../sandbox/contract/secrets.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import type { Field, OptionText } from './field.ts';
import { type LimitWord, parseCount, parseLimits, parseRate } from './options.ts';
import { withOption } from './ranges.ts';
import { parseSecrets } from './secret-flags.ts';

export interface NetworkFlags {
  /** `egress` is the mode `allowlist`. */
  readonly net?: 'none' | 'egress' | 'open';
  readonly allowOut: readonly string[];
  readonly denyOut: readonly string[];
  readonly netLimit?: readonly string[];
  readonly secret?: readonly string[];
}

/** @param byDefault ends the help of `--net` */
export const networkTexts = (byDefault = ''): readonly OptionText[] => [
  {
    flags: '--net <mode>',
    help: `network of the guest: none, egress or open${byDefault}`,
    choices: ['none', 'egress', 'open'],
  },
  {
    flags: '--allow-out <rule>',
    help: 'allow outbound connections that match the rule; implies --net egress (repeatable)',
    isRepeatable: true,
  },
  {
    flags: '--deny-out <rule>',
    help: 'deny outbound connections that match the rule; overrides --allow-out (repeatable)',
    isRepeatable: true,
  },
  {
    flags: '--net-limit <limits>',
    help: 'network limits, for example bytes=1G,up=5M,down=20M,connections=100,api.example.com=10M, or none',
    isRepeatable: true,
  },
  {
    flags: '--secret <NAME@host>',
    help: 'let the guest use the value of variable or stored secret NAME at this host, without seeing it; NAME@host:PLACE restricts where (repeatable)',
    isRepeatable: true,
  },
];

export const NETWORK: Field<CreateRequest> = {
  options: networkTexts(' (default: none)'),
  read: (flags: NetworkFlags, env) => ({ network: networkOptions(flags), ...secretOptions(env, flags) }),
};

const RATE = { parse: parseRate, ...RANGES.networkBytesPerSecond };
const BYTES = { parse: parseRate, ...RANGES.networkBytes };
const WORDS: Readonly<Record<string, LimitWord<string>>> = {
  bytes: { field: 'bytesMax', ...BYTES },
  up: { field: 'uploadBytesPerSecond', ...RATE },
  down: { field: 'downloadBytesPerSecond', ...RATE },
  connections: { field: 'connectionsMax', parse: parseCount, ...RANGES.networkConnections },
} satisfies Record<string, LimitWord<keyof NetworkLimits>>;
const EXAMPLE = 'bytes=1G,up=5M,down=20M,connections=100,api.example.com=10M';

/**
 * `bytes=1G,up=5M,api.example.com=10M`: a key with a dot is a name. Several options form one list; `none` alone
 * removes all limits.
 * @throws UsageError
 */
export function parseNetLimits(texts: readonly string[]): NetworkLimits {
  const names = texts
    .flatMap((text) => text.split(','))
    .map((pair) => pair.split('=', 1)[0] ?? '')
    .filter((name) => name.includes('.'));
  const byName = Object.fromEntries(names.map((name) => [name, { field: name, ...BYTES }]));
  const limits = parseLimits('--net-limit', { ...WORDS, ...byName }, EXAMPLE, texts);
  const pairs = Object.entries(limits) as [string, number][];
  const destinations = pairs.filter(([name]) => name.includes('.')).map(([name, bytesMax]) => ({ name, bytesMax }));
  return {
    ...Object.fromEntries(pairs.filter(([name]) => !name.includes('.'))),
    ...(destinations.length === 0 ? {} : { destinations }),
  };
}

/** Rules without a mode imply `egress`. @throws UsageError */
export function networkOptions(flags: NetworkFlags): NetworkOptions | undefined {
  const { allowOut: allow, denyOut: deny, secret = [] } = flags;
  const hasRules = allow.length + deny.length > 0;
  if (flags.net === 'none' && secret.length > 0) {
    throw new UsageError('--net none and --secret are mutually exclusive', 'omit one of them');
  }
  const { net = hasRules ? 'egress' : 'none' } = flags;
  const { netLimit = [] } = flags;
  const limited = netLimit.length === 0 ? {} : { limits: withOption('--net-limit', () => parseNetLimits(netLimit)) };
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
  if (!hasRules && netLimit.length > 0) {
    throw new UsageError('--net-limit needs a network', 'add --net open or --allow-out');
  }
  if (!hasRules) return undefined;
  throw new UsageError('--net none excludes --allow-out and --deny-out', 'omit one of them');
}

/** Returns no field without secrets. @throws UsageError */
export function secretOptions(
  env: Cli['env'],
  { secret = [] }: NetworkFlags,
): { readonly secrets?: readonly SecretOptions[] } {
  return secret.length === 0 ? {} : { secrets: parseSecrets(secret, env) };
}
