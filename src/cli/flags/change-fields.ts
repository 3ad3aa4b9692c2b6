/** Options of `update`: what changes in a running sandbox. */
import type { SandboxChange } from '../../sandbox/contract/control.ts';
import { type Field, part } from './field.ts';
import { BUDGET_FIELD } from './model-budget.ts';
import { type NetworkFlags, networkOptions, networkTexts, secretOptions } from './network-fields.ts';
import { isNone, parseDuration, parsePairs } from './options.ts';
import { packageChange, packageTexts } from './package-fields.ts';
import * as ranges from './ranges.ts';
import { memoryAction, RATES } from './sandbox-fields.ts';

export const CHANGES: readonly Field<SandboxChange>[] = [
  { options: networkTexts(), read: networkChange },
  { options: packageTexts('separated by commas, or none; replaces the policy, with its rules'), read: packageChange },
  ...RATES,
  part('models', [BUDGET_FIELD]),
  {
    flags: '--timeout <time>',
    help: 'lifetime from now on, for example 90s or 2h, or none',
    field: 'timeoutMs',
    parse: (text) => (isNone(text) ? null : parseDuration(text)),
  },
  {
    flags: '--memory <size>',
    help: 'new memory size; needs a sandbox created with --memory-max',
    field: 'memoryMib',
    parse: ranges.memory,
  },
  {
    flags: '--on-memory-pressure <action>',
    help: 'action when close to OOM; see neurovisor create --help',
    field: 'onMemoryPressure',
    parse: memoryAction,
  },
  {
    flags: '-l, --label <KEY=VALUE>',
    help: 'replace all labels (repeatable)',
    field: 'metadata',
    parseAll: (texts) => parsePairs(texts, '--label'),
  },
];

/** `--net none` takes the network away. */
function networkChange(flags: NetworkFlags, env: Readonly<Record<string, string | undefined>>): SandboxChange {
  const network = networkOptions(flags);
  const changed = flags.net === 'none' ? { network: null } : network === undefined ? {} : { network };
  return { ...changed, ...secretOptions(env, flags) };
}
