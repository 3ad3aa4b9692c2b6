/** Options about the packages that a sandbox may fetch. */
import { readFileSync } from 'node:fs';
import { describeError } from '../../base/errors.ts';
import { ECOSYSTEMS, type Ecosystem, isPackageRule } from '../../base/request/package-policy.ts';
import type { CreateRequest } from '../../sandbox/contract/control.ts';
import type { PackageOptions } from '../../sandbox/contract/packages.ts';
import { UsageError } from '../failure.ts';
import type { Field, OptionText } from './field.ts';
import { lockEntries } from './lock-file.ts';
import * as ranges from './ranges.ts';

export interface PackageFlags {
  readonly packages?: readonly string[];
  readonly packagesAllow?: readonly string[];
  readonly packagesDeny?: readonly string[];
  readonly packagesMinAge?: string;
  readonly packagesLock?: readonly string[];
}

/** Also for the packages of `--with` and `--requirements`. */
export const PACKAGES_MIN_AGE: OptionText = {
  flags: '--packages-min-age <time>',
  help: 'hide versions of packages that are younger than this, for example 7d; also from --with and --requirements (default: none)',
  check: ranges.packageAge,
};

/** @param none ends the help of `--packages` */
export const packageTexts = (none: string): readonly OptionText[] => [
  {
    flags: '--packages <kinds>',
    help: `let the guest install packages from this host's indexes, without a network: ${ECOSYSTEMS.join(', ')}, ${none}`,
    isRepeatable: true,
  },
  {
    flags: '--packages-allow <names>',
    help: 'restrict packages to these names, for example numpy, pip:torch or npm:@types/* (repeatable)',
    isRepeatable: true,
  },
  {
    flags: '--packages-deny <names>',
    help: 'refuse these packages; overrides --packages-allow (repeatable)',
    isRepeatable: true,
  },
  PACKAGES_MIN_AGE,
  {
    flags: '--packages-lock <file>',
    help: 'restrict packages to the files whose digests this lock file has: requirements.txt, uv.lock, package-lock.json or Cargo.lock (repeatable)',
    isRepeatable: true,
  },
];

export const PACKAGES: Field<CreateRequest> = {
  options: packageTexts('separated by commas (default: none)'),
  read: packageOptions,
};

/** Returns no field without `--packages`. @throws UsageError */
export function packageOptions(flags: PackageFlags): { readonly packages?: PackageOptions } {
  const { packages = [], packagesAllow = [], packagesDeny = [], packagesMinAge: age } = flags;
  const { packagesLock = [] } = flags;
  if (packages.length === 0) {
    const more = [...packagesAllow, ...packagesDeny, ...packagesLock];
    // The age holds for the packages that the sandbox starts with.
    if (more.length === 0) return age === undefined ? {} : { packages: onlyAge(age) };
    throw new UsageError(
      '--packages-allow, --packages-deny and --packages-lock need --packages',
      'add for example --packages pip',
    );
  }
  return {
    packages: {
      ecosystems: ecosystemsOf(packages),
      allow: rulesOf('--packages-allow', packagesAllow),
      deny: rulesOf('--packages-deny', packagesDeny),
      ...(age === undefined ? {} : { minAgeMs: ranges.packageAge(age) }),
      ...(packagesLock.length === 0 ? {} : { lock: packagesLock.flatMap(lockedFiles) }),
    },
  };
}

const onlyAge = (age: string): PackageOptions => ({ ecosystems: [], minAgeMs: ranges.packageAge(age) });

/** Of a template, whose packages are installed when it is built. @throws UsageError */
export function templateAge({ packagesMinAge: age }: PackageFlags): { readonly packagesMinAgeMs?: number } {
  return age === undefined ? {} : { packagesMinAgeMs: ranges.packageAge(age) };
}

/** For a change: `--packages none` takes all packages away. @throws UsageError */
export function packageChange(flags: PackageFlags): { readonly packages?: PackageOptions | null } {
  const { packages = [], packagesAllow = [], packagesDeny = [], packagesLock = [] } = flags;
  if (packages.length === 0 && flags.packagesMinAge !== undefined) {
    throw new UsageError('--packages-min-age needs --packages', 'add for example --packages pip');
  }
  if (!packages.includes('none')) return packageOptions(flags);
  const more = [...packagesAllow, ...packagesDeny, ...packagesLock];
  if (packages.length === 1 && more.length === 0 && flags.packagesMinAge === undefined) {
    return { packages: null };
  }
  throw new UsageError('--packages none allows no other packages and no rules', 'omit the others');
}

function lockedFiles(path: string): readonly string[] {
  try {
    return lockEntries(path, readFileSync(path, 'utf8'));
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`--packages-lock ${path}: ${describeError(error)}`, 'check the path');
  }
}

function ecosystemsOf(texts: readonly string[]): readonly Ecosystem[] {
  const named = splitAll(texts);
  return named.map((text) => {
    const found = ECOSYSTEMS.find((one) => one === text);
    if (found !== undefined) return found;
    throw new UsageError(
      `invalid kind of packages "${text}" for --packages`,
      `use one or more of ${ECOSYSTEMS.join(', ')}, separated by commas`,
    );
  });
}

function rulesOf(option: string, texts: readonly string[]): readonly string[] {
  const rules = splitAll(texts);
  const wrong = rules.find((rule) => !isPackageRule(rule));
  if (wrong === undefined) return rules;
  throw new UsageError(
    `invalid package name "${wrong.slice(0, 80)}" for ${option}`,
    'use a name, for example numpy, pip:torch or npm:@types/*',
  );
}

const splitAll = (texts: readonly string[]): string[] =>
  texts.flatMap((text) => text.split(',')).filter((text) => text !== '');
