/**
 * The supported versions of Firecracker, and the differences between them.
 *
 * The minimum for production: 1.16.0 leaves a restored guest's vsock dead (firecracker#5958), older versions have a
 * jailer that follows symlinks (CVE-2026-1386) and no override of a snapshot's vsock path.
 */

export interface FirecrackerVersion {
  readonly major: number;
  readonly minor: number;
  readonly patch: number;
  /** As printed, e.g. `1.17.0-dev`. */
  readonly text: string;
}

export const VERSION_FLOOR = '1.16.1';

type Triple = readonly [major: number, minor: number, patch: number];

/**
 * Out-of-bounds write in the PCI transport by guest root (CVE-2026-5747). We never enable PCI, but refuse these versions
 * all the same.
 */
const VULNERABLE: readonly { readonly from: Triple; readonly to: Triple }[] = [
  { from: [1, 13, 0], to: [1, 14, 3] },
  { from: [1, 15, 0], to: [1, 15, 0] },
];

/**
 * @param output output of `--version`; 1.16 writes a log line after the first line
 * @returns undefined if it has no version of `program`
 */
export function parseVersion(
  output: string,
  program: 'Firecracker' | 'Jailer' = 'Firecracker',
): FirecrackerVersion | undefined {
  const [line = ''] = output.split('\n', 1);
  const match =
    /^(Firecracker|Jailer) v((\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:[-+][\w.+-]{0,64})?)$/.exec(line);
  if (match?.[1] !== program) return undefined;
  const [, , text = '', major, minor, patch] = match;
  return { major: Number(major), minor: Number(minor), patch: Number(patch), text };
}

/** Why the version is not supported, for people; undefined: it is. @param allowOlder ignore the floor; for tests */
export function versionProblem(
  version: FirecrackerVersion,
  allowOlder: boolean,
): string | undefined {
  if (VULNERABLE.some(({ from, to }) => isAtLeast(version, from) && !isAfter(version, to))) {
    return `version ${version.text} lets a guest write out of bounds (CVE-2026-5747)`;
  }
  if (version.major !== 1) return `version ${version.text} is not supported: only 1.x is`;
  if (!allowOlder && !isAtLeast(version, [1, 16, 1])) {
    return `version ${version.text} is older than ${VERSION_FLOOR}`;
  }
  return undefined;
}

/** Version-dependent behavior, each from a measurement or from the project's changelog. */
export interface Quirks {
  /**
   * A pause and resume without a snapshot between leaves the guest's vsock dead for host connections: resume
   * waits for the guest to acknowledge a reset that only a snapshot sends. Each pause takes one (#6100).
   */
  readonly pauseTakesSnapshot: boolean;
  /** `vsock_override` of a snapshot's socket path (#5323). Its value must not be empty, which is accepted. */
  readonly overridesVsock: boolean;
  /** The first connection after a load may be accepted and then end, if the guest had traffic. */
  readonly losesFirstConnection: boolean;
  /** The key of a load for dirty page tracking, which diff snapshots need. */
  readonly trackDirtyPagesKey: 'track_dirty_pages' | 'enable_diff_snapshots';
  /** Adds `pci=off` to the kernel's command line itself. */
  readonly addsPciOff: boolean;
  /** Encoding of the file for `--seccomp-filter`; each version refuses the other one. */
  readonly seccompFormat: 'bincode' | 'bitcode';
}

export function quirksOf(version: FirecrackerVersion): Quirks {
  return {
    pauseTakesSnapshot: version.major === 1 && version.minor === 16,
    overridesVsock: isAtLeast(version, [1, 16, 0]),
    losesFirstConnection: !isAtLeast(version, [1, 16, 0]),
    trackDirtyPagesKey: isAtLeast(version, [1, 13, 0])
      ? 'track_dirty_pages'
      : 'enable_diff_snapshots',
    addsPciOff: isAtLeast(version, [1, 16, 0]),
    seccompFormat: isAtLeast(version, [1, 15, 0]) ? 'bitcode' : 'bincode',
  };
}

function isAtLeast(version: FirecrackerVersion, [major, minor, patch]: Triple): boolean {
  if (version.major !== major) return version.major > major;
  if (version.minor !== minor) return version.minor > minor;
  return version.patch >= patch;
}

function isAfter(version: FirecrackerVersion, [major, minor, patch]: Triple): boolean {
  return isAtLeast(version, [major, minor, patch + 1]);
}
