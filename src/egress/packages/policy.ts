/** Decides what a sandbox may fetch. Pure. */
import { type Ecosystem, LOCK_ENTRY, type PackagePolicy } from '../../base/request/package-policy.ts';
import { accepted, type Checked, refused } from './refusal.ts';

export interface Digest {
  readonly algorithm: 'sha256' | 'sha512' | 'sha1';
  /** Lower case. */
  readonly hex: string;
}

export class PackageRules {
  readonly policy: PackagePolicy;
  readonly #locked: ReadonlyMap<string, ReadonlySet<string>> | null;

  constructor(policy: PackagePolicy) {
    this.policy = policy;
    this.#locked = policy.lock === null ? null : lockedDigests(policy.lock);
  }

  /**
   * Whether the index may be asked for this name at all. @param name empty for a request that names no package, such as
   * a list of packages
   */
  permitsName(ecosystem: Ecosystem, name: string): Checked<void> {
    const { ecosystems, allow, deny } = this.policy;
    if (!ecosystems.includes(ecosystem)) return packagesOff(ecosystem);
    if (name === '') return accepted(undefined);
    if (deny.some((rule) => matches(rule, ecosystem, name))) {
      return refused(403, 'denied', `${name} is denied by --packages-deny of this sandbox.`);
    }
    if (allow.length > 0 && !allow.some((rule) => matches(rule, ecosystem, name))) {
      const message = `${name} is not in --packages-allow of this sandbox.`;
      return refused(403, 'not_allowed', message);
    }
    if (this.#locked !== null && !this.#locked.has(`${ecosystem}:${canonical(ecosystem, name)}`)) {
      return refused(403, 'not_locked', `${name} is not in the lock file of this sandbox.`);
    }
    return accepted(undefined);
  }

  fileRules(ecosystem: Ecosystem, name: string): FileRules {
    const locked = this.#locked?.get(`${ecosystem}:${canonical(ecosystem, name)}`) ?? null;
    return { locked, minAgeMs: this.policy.minAgeMs };
  }
}

/** Rules for the files of one name. Plain data: they are sent to a thread. */
export interface FileRules {
  /** `ALGORITHM:HEX`; `null` if there is no lock. */
  readonly locked: ReadonlySet<string> | null;
  readonly minAgeMs: number | null;
}

/** @param publishedMs since 1970; `null` if unknown */
export function permitsFile(
  { locked, minAgeMs }: FileRules,
  name: string,
  file: { readonly digests: readonly Digest[]; readonly publishedMs: number | null },
  nowMs: number,
): Checked<void> {
  if (locked !== null && !file.digests.some(({ algorithm, hex }) => locked.has(`${algorithm}:${hex}`))) {
    const message = `The lock file of this sandbox names another file of ${name}.`;
    return refused(403, 'not_locked', message);
  }
  if (minAgeMs === null) return accepted(undefined);
  if (file.publishedMs === null) {
    const message = `The index does not say when this version of ${name} was published, and --packages-min-age needs that.`;
    return refused(403, 'too_young', message);
  }
  if (nowMs - file.publishedMs >= minAgeMs) return accepted(undefined);
  const message = `This version of ${name} is younger than --packages-min-age of this sandbox.`;
  return refused(403, 'too_young', message);
}

export function packagesOff(ecosystem: Ecosystem): ReturnType<typeof refused> {
  const message = `This sandbox may not fetch ${ecosystem} packages: create it with --packages ${ecosystem}.`;
  return refused(403, 'packages_off', message);
}

/** The rule's name is compared case-insensitively; a final `*` matches any rest. */
function matches(rule: string, ecosystem: Ecosystem, name: string): boolean {
  const [, of, text = ''] = /^(?:(pip|npm|go|cargo|apt):)?(.*)$/s.exec(rule) ?? [];
  if (of !== undefined && of !== ecosystem) return false;
  const wanted = canonical(ecosystem, text);
  const given = canonical(ecosystem, name);
  return wanted.endsWith('*') ? given.startsWith(wanted.slice(0, -1)) : given === wanted;
}

/** One form of each name, as the ecosystem compares names. */
function canonical(ecosystem: Ecosystem, name: string): string {
  const lower = name.toLowerCase();
  if (ecosystem === 'pip') return lower.replace(/[-_.]+/g, '-');
  if (ecosystem === 'cargo') return lower.replace(/_/g, '-');
  return lower;
}

function lockedDigests(lock: readonly string[]): ReadonlyMap<string, ReadonlySet<string>> {
  const names = new Map<string, Set<string>>();
  for (const entry of lock) {
    const [, ecosystem = '', name = '', digest = ''] = LOCK_ENTRY.exec(entry) ?? [];
    const key = `${ecosystem}:${canonical(ecosystem as Ecosystem, name)}`;
    const digests = names.get(key) ?? new Set();
    digests.add(digest);
    names.set(key, digests);
  }
  return names;
}
