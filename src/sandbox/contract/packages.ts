/** A sandbox's package policy: its validation, and the environment variables that programs get for it. */
import { ECOSYSTEMS, type Ecosystem, type PackagePolicy } from '../../base/request/package-policy.ts';
import { type PackageOptions, packageOptions, packagesAge } from './schema/packages.ts';
import { parse } from './schema/parse.ts';
import type { PackageInfo } from './schema/sandbox.ts';

export type { PackageOptions } from './schema/packages.ts';
export type { PackageInfo } from './schema/sandbox.ts';

/** @throws SandboxError `spec_invalid` */
export function packagePolicy(options: PackageOptions | null): PackagePolicy | null {
  if (options === null) return null;
  const { allow = [], deny = [], minAgeMs = null, lock = null, ...asked } = parse(packageOptions, options, 'packages');
  const ecosystems = ECOSYSTEMS.filter((one) => asked.ecosystems.includes(one));
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
  return age === null ? {} : { packagesMinAgeMs: parse(packagesAge, age, 'packages.minAgeMs') };
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
