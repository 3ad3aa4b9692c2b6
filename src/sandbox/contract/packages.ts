/** A sandbox's package policy: its validation, and the environment variables that programs get for it. */
import {
  ECOSYSTEMS,
  type Ecosystem,
  isLockEntry,
  isPackageRule,
  PACKAGE_LIMITS,
  type PackagePolicy,
} from '../../base/request/package-policy.ts';
import { SandboxError } from './errors.ts';
import { isInRange, RANGES } from './limits.ts';

/** Requested policy; an omitted field restricts nothing. */
export interface PackageOptions {
  /** If empty, nothing can be fetched; a minimum age still applies to the packages that the sandbox starts with. */
  readonly ecosystems: readonly Ecosystem[];
  readonly allow?: readonly string[] | undefined;
  readonly deny?: readonly string[] | undefined;
  readonly minAgeMs?: number | null | undefined;
  readonly lock?: readonly string[] | null | undefined;
}

/** Leaves out the lock's file list, which may have thousands of entries. */
export interface PackageInfo extends Omit<PackagePolicy, 'lock'> {
  /** Number of files in the lock; `null` without a lock. */
  readonly lockedFiles: number | null;
}

/** @throws SandboxError `spec_invalid` */
export function packagePolicy(options: PackageOptions | null): PackagePolicy | null {
  if (options === null) return null;
  const { allow = [], deny = [], minAgeMs = null, lock = null } = options;
  const ecosystems = ECOSYSTEMS.filter((one) => options.ecosystems.includes(one));
  const unknown = options.ecosystems.find((one) => !ECOSYSTEMS.includes(one));
  if (unknown !== undefined) {
    throw invalid('ecosystems', `one or more of ${ECOSYSTEMS.join(', ')}`);
  }
  for (const [field, rules] of Object.entries({ allow, deny })) {
    const { rulesMax } = PACKAGE_LIMITS;
    if (rules.length > rulesMax) throw invalid(field, `at most ${rulesMax} rules`);
    const wrong = rules.find((rule) => !isPackageRule(rule));
    if (wrong === undefined) continue;
    const why = `"${wrong.slice(0, 80)}" is not a name, such as numpy, npm:@types/* or pip:torch`;
    throw invalid(field, why);
  }
  if (minAgeMs !== null) checkAge(minAgeMs);
  const { lockMax } = PACKAGE_LIMITS;
  if (lock !== null && lock.length > lockMax) throw invalid('lock', `at most ${lockMax} files`);
  const wrong = lock?.find((entry) => !isLockEntry(entry));
  if (wrong !== undefined) {
    throw invalid('lock', `"${wrong.slice(0, 80)}" is not of the form pip:NAME sha256:HEX`);
  }
  return { ecosystems, allow, deny, minAgeMs, lock };
}

export function packageInfo({ lock, ...policy }: PackagePolicy): PackageInfo {
  return { ...policy, lockedFiles: lock?.length ?? null };
}

/**
 * Minimum age for a template's packages: the template's own, or else the sandbox's.
 * @throws SandboxError `spec_invalid`
 */
export function installAge(options: {
  readonly packages?: PackageOptions | null | undefined;
  readonly packagesMinAgeMs?: number | undefined;
}): { readonly packagesMinAgeMs?: number } {
  const age = options.packagesMinAgeMs ?? options.packages?.minAgeMs ?? null;
  if (age === null) return {};
  checkAge(age);
  return { packagesMinAgeMs: age };
}

function checkAge(minAgeMs: number): void {
  if (isInRange(minAgeMs, RANGES.packageAgeMs)) return;
  const { min, max } = RANGES.packageAgeMs;
  throw invalid('minAgeMs', `${minAgeMs} is not a whole number from ${min} to ${max}`);
}

function invalid(field: string, why: string): SandboxError {
  return new SandboxError('spec_invalid', `sandbox option packages.${field}: ${why}`);
}

/** The package gateway's address in the guest (`guest/agent/…/limits.py`). */
const GATEWAY = '127.0.0.1:11435';
const URL = `http://${GATEWAY}`;

const VARIABLES: Readonly<Record<Ecosystem, Readonly<Record<string, string>>>> = {
  pip: {
    PIP_INDEX_URL: `${URL}/pypi/simple`,
    // pip caches HTTP downloads only for trusted hosts.
    PIP_TRUSTED_HOST: GATEWAY,
    PIP_DISABLE_PIP_VERSION_CHECK: '1',
    UV_DEFAULT_INDEX: `${URL}/pypi/simple`,
  },
  npm: {
    NPM_CONFIG_REGISTRY: `${URL}/npm/`,
    NPM_CONFIG_AUDIT: 'false',
    NPM_CONFIG_UPDATE_NOTIFIER: 'false',
    NPM_CONFIG_OMIT_LOCKFILE_REGISTRY_RESOLVED: 'true',
  },
  go: { GOPROXY: `${URL}/go` },
  // cargo reads no variable for this: the agent writes cargo's and apt's configuration.
  cargo: {},
  apt: { APT_CONFIG: '/run/neurovisor/apt.conf' },
};

const NO_PROXY = 'localhost,127.0.0.1';

/**
 * Variables that point package clients in the guest to the gateway: for the allowed ecosystems, or for all if there is
 * no network card, since the gateway's refusal names the remedy and a DNS failure does not.
 */
export function packageVariables(policy: PackagePolicy | null, hasNetwork: boolean): Readonly<Record<string, string>> {
  const allowed = policy?.ecosystems ?? [];
  const pointed = hasNetwork ? allowed : ECOSYSTEMS;
  if (pointed.length === 0) return {};
  return {
    ...Object.assign({}, ...pointed.map((one) => VARIABLES[one])),
    NO_PROXY,
    no_proxy: NO_PROXY,
    NEUROVISOR_PACKAGES: pointed.join(),
  };
}
