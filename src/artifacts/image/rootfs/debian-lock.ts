/**
 * The locked Debian packages of the golden image, `image/debian.lock`: name, version and SHA-256 of each. The mirror's
 * signature proves that a package is Debian's; the lock decides which version, so that two machines get the same. Pure.
 *
 * Debian's mirrors remove a version soon after its successor. Then apt installs the successor, and the difference is
 * recorded in the image's manifest.
 */
import { z } from 'zod';
import { ImageError } from '../errors.ts';

const debianPackageSchema = z.object({
  version: z.string(),
  /** SHA-256 of the `.deb`, hexadecimal. */
  sha256: z.string(),
});
export type DebianPackage = z.infer<typeof debianPackageSchema>;
export const debianPackagesSchema = z.record(z.string(), debianPackageSchema);
export type DebianPackages = Readonly<Record<string, DebianPackage>>;

export const lockDifferenceSchema = z.object({
  name: z.string(),
  /** `null` if it is not in the lock file. */
  locked: z.string().nullable(),
  /** `null` if it is not in the image. */
  installed: z.string().nullable(),
});
export type LockDifference = z.infer<typeof lockDifferenceSchema>;

const LINE = /^([a-z0-9][a-z0-9+.-]+)=([A-Za-z0-9.+~:-]+) sha256:([0-9a-f]{64})$/;
/** Above 1000, so that apt takes this version even if another one is newer. */
const PIN_PRIORITY = 1001;

/** Parses lines `name=version sha256:…`. @throws ImageError `source_invalid` */
export function parseDebianLock(text: string): DebianPackages {
  const packages: Record<string, DebianPackage> = {};
  for (const line of text.split('\n')) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const [, name, version, sha256] = LINE.exec(line) ?? [];
    if (name === undefined || version === undefined || sha256 === undefined) {
      throw new ImageError('source_invalid', `read image/debian.lock: invalid line "${line}"`, {
        remedy: 'Use lines name=version sha256:DIGEST, or run node tools/lock-debian.ts.',
      });
    }
    packages[name] = { version, sha256 };
  }
  return packages;
}

export function formatDebianLock(packages: DebianPackages): string {
  return Object.entries(packages)
    .map(([name, { version, sha256 }]) => `${name}=${version} sha256:${sha256}\n`)
    .sort()
    .join('');
}

/** Preferences for apt: each locked version if a mirror has it, otherwise its newest (see apt_preferences(5)). */
export function aptPreferences(lock: DebianPackages): string {
  return Object.entries(lock)
    .map(([name, { version }]) => `Package: ${name}\nPin: version ${version}\nPin-Priority: ${PIN_PRIORITY}\n`)
    .join('\n');
}

/**
 * Adds the digests to the installed packages.
 * @param versions installed versions by name
 * @param records stanzas of apt's indexes (`apt-cache show`), possibly of more versions
 * @throws ImageError `result_invalid` if a package is in no index, or has two digests, so that either may be installed
 */
export function withDigests(versions: ReadonlyMap<string, string>, records: string): Record<string, DebianPackage> {
  const known = new Map<string, Set<string>>();
  for (const stanza of records.split('\n\n')) {
    const field = (name: string): string | undefined => new RegExp(`^${name}: (.+)$`, 'm').exec(stanza)?.[1];
    const key = `${field('Package')} ${field('Version')}`;
    known.set(key, (known.get(key) ?? new Set()).add(field('SHA256') ?? ''));
  }
  const packages: Record<string, DebianPackage> = {};
  for (const [name, version] of versions) {
    const [sha256, other] = known.get(`${name} ${version}`) ?? [];
    if (other !== undefined) {
      throw new ImageError('result_invalid', `mirrors have ${name} ${version} with two SHA-256`);
    }
    if (sha256 === undefined || !/^[0-9a-f]{64}$/.test(sha256)) {
      throw new ImageError('result_invalid', `${name} ${version} is installed, but in no index`);
    }
    packages[name] = { version, sha256 };
  }
  return packages;
}

/**
 * Differences between the installed and the locked packages. [] without a lock.
 * @throws ImageError `result_invalid` for a package of the locked version with another digest: Debian never publishes
 * two packages of one version
 */
export function compareWithLock(lock: DebianPackages, installed: DebianPackages): LockDifference[] {
  const names = Object.keys(lock);
  if (names.length === 0) return [];
  const differences: LockDifference[] = [];
  for (const name of [...new Set([...names, ...Object.keys(installed)])].sort()) {
    const [wanted, found] = [lock[name], installed[name]];
    if (wanted?.version !== found?.version) {
      const [locked, present] = [wanted?.version ?? null, found?.version ?? null];
      differences.push({ name, locked, installed: present });
    } else if (wanted?.sha256 !== found?.sha256) {
      throw new ImageError(
        'result_invalid',
        `${name} ${found?.version} has the SHA-256 ${found?.sha256}, not ${wanted?.sha256}`,
        { remedy: 'Do not use this mirror: it has another package under the name of Debian’s.' },
      );
    }
  }
  return differences;
}

/** For people: the packages of an image, and how they differ from the lock. */
export interface GuestPackages {
  /** One line. */
  readonly description: string;
  /** `null` if all packages are the locked ones. */
  readonly remedy: string | null;
}

const NAMED_MAX = 3;
/** Applies if the mirrors no longer have a locked version. */
const REMEDY =
  'sandboxes work; for the locked versions, set up with a mirror that still has them (docs/troubleshooting.md)';

export function describePackages(details: {
  readonly packages: DebianPackages;
  readonly lockDifferences: readonly LockDifference[];
}): GuestPackages {
  const { lockDifferences: differences } = details;
  const count = Object.keys(details.packages).length;
  if (differences.length === 0) {
    return { description: `${count} Debian packages as in image/debian.lock`, remedy: null };
  }
  const named = differences.slice(0, NAMED_MAX).map(({ name, locked, installed }) => {
    if (installed === null) return `${name} is missing`;
    if (locked === null) return `${name} ${installed} is additional`;
    return `${name} ${installed} instead of ${locked}`;
  });
  const more = differences.length - named.length;
  const rest = more > 0 ? `, and ${more} more` : '';
  const list = `${named.join(', ')}${rest}`;
  return {
    description: `${differences.length} of ${count} Debian packages not as in image/debian.lock: ${list}`,
    remedy: REMEDY,
  };
}
