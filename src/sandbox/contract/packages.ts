/** The package policy of a sandbox: checked as it comes in, and what its programs learn of it. */
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

/** A policy as it is requested: an absent field restricts nothing. */
export interface PackageOptions {
  /** Empty: it fetches nothing; a minimum age still holds for the packages it starts with. */
  readonly ecosystems: readonly Ecosystem[];
  readonly allow?: readonly string[] | undefined;
  readonly deny?: readonly string[] | undefined;
  readonly minAgeMs?: number | null | undefined;
  readonly lock?: readonly string[] | null | undefined;
}

/** Without the files of the lock, which may be many thousands. */
export interface PackageInfo extends Omit<PackagePolicy, 'lock'> {
  /** Files that the lock names; null: no lock. */
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
 * The minimum age for the packages of a template: that of the sandbox, unless the template has its own.
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

/** Of the package gateway in the guest (`guest/agent/…/limits.py`). */
const GATEWAY = '127.0.0.1:11435';
const URL = `http://${GATEWAY}`;

const VARIABLES: Readonly<Record<Ecosystem, Readonly<Record<string, string>>>> = {
  pip: {
    PIP_INDEX_URL: `${URL}/pypi/simple`,
    // pip caches what comes by http only for trusted hosts.
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
  // cargo reads no variable for this: the agent writes its configuration, and apt's.
  cargo: {},
  apt: { APT_CONFIG: '/run/neurovisor/apt.conf' },
};

const NO_PROXY = 'localhost,127.0.0.1';

/**
 * Variables that point clients in the guest to the gateway: for what the policy allows, and without a network card for
 * everything, since a refusal with its remedy helps more than a name that can't be resolved.
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
