/** What a sandbox may fetch through the host's package gateway, as requested. */
import { z } from 'zod';
import { ECOSYSTEMS, LOCK_ENTRY, PACKAGE_LIMITS, PACKAGE_RULE } from '../../../base/request/package-policy.ts';
import { RANGES } from '../limits.ts';
import { list, notA, type ReadOnly, whole } from './values.ts';

export const packageEcosystem = z.enum(ECOSYSTEMS).meta({ id: 'PackageEcosystem' });
const packageRules = list(
  z
    .string()
    .max(PACKAGE_LIMITS.ruleCharactersMax)
    .regex(PACKAGE_RULE, { error: notA('a name, such as numpy, npm:@types/* or pip:torch') }),
  PACKAGE_LIMITS.rulesMax,
).optional();
export const packagesAge = whole(RANGES.packageAgeMs);
export const packageOptions = z
  .strictObject({
    ecosystems: list(packageEcosystem, ECOSYSTEMS.length),
    allow: packageRules.describe(
      'Names, optionally with `pip:` before and `*` at the end. If omitted or empty: every name.',
    ),
    deny: packageRules.describe('The same form; overrides `allow`.'),
    minAgeMs: packagesAge
      .nullable()
      .optional()
      .describe(
        'Versions younger than this do not exist for it, nor for the installation of `requirements`, milliseconds. Default: null.',
      ),
    lock: list(
      z
        .string()
        .max(PACKAGE_LIMITS.lockCharactersMax)
        .regex(LOCK_ENTRY, { error: notA('of the form pip:NAME sha256:HEX') }),
      PACKAGE_LIMITS.lockMax,
    )
      .nullable()
      .optional()
      .describe('Only these files exist for it: `pip:NAME sha256:HEX`. Default: null.'),
  })
  .meta({ id: 'PackageOptions' });
/** Requested policy; an omitted field restricts nothing. With no ecosystem, nothing can be fetched. */
export type PackageOptions = ReadOnly<z.infer<typeof packageOptions>>;
