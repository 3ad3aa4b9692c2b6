/** The requested package policy of a sandbox: what it may fetch through the host's package gateway. */

export const ECOSYSTEMS = ['pip', 'npm', 'go', 'cargo', 'apt'] as const;
export type Ecosystem = (typeof ECOSYSTEMS)[number];

export interface PackagePolicy {
  /** If empty, none. */
  readonly ecosystems: readonly Ecosystem[];
  /** `name`, `name*`, each optionally with `pip:` before it. If empty, every name. */
  readonly allow: readonly string[];
  /** The same form; overrides `allow`. */
  readonly deny: readonly string[];
  /** Versions published more recently than this are hidden; `null`: no such limit. */
  readonly minAgeMs: number | null;
  /** `pip:NAME ALGORITHM:HEX`: only these files exist; `null`: no lock. */
  readonly lock: readonly string[] | null;
}

export const NO_PACKAGES: PackagePolicy = { ecosystems: [], allow: [], deny: [], minAgeMs: null, lock: null };

/** First words of the gateway's refusal of a file for which the host's disk has no room; clients print it. */
export const HOST_DISK_FULL = 'The disk of the host is full';

export const PACKAGE_RULE = /^(?:(?:pip|npm|go|cargo|apt):)?@?[A-Za-z0-9][A-Za-z0-9._~/+-]*\*?$|^\*$/;
export const LOCK_ENTRY =
  /^(pip|npm|go|cargo|apt):([^\s]+) (sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}|sha1:[0-9a-f]{40})$/;

export function isPackageRule(text: string): boolean {
  return text.length <= PACKAGE_LIMITS.ruleCharactersMax && PACKAGE_RULE.test(text);
}

export const PACKAGE_LIMITS = {
  rulesMax: 1_000,
  ruleCharactersMax: 256,
  lockMax: 20_000,
  lockCharactersMax: 400,
} as const;

/** Of all Python requirements of a template together; a locked project with thousands of hashes stays below. */
export const REQUIREMENT_LIMITS = { lines: 5_000, lineCharacters: 32_768, characters: 2_000_000 };
