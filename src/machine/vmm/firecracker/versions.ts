/**
 * The supported versions of Firecracker, and the differences between them.
 *
 * The minimum: 1.16.0 leaves a restored guest's vsock dead (firecracker#5958); some older versions let a guest write
 * out of bounds (CVE-2026-5747), some have a jailer that follows symlinks (CVE-2026-1386), and none overrides a
 * snapshot's vsock path.
 */

export interface FirecrackerVersion {
  readonly major: number;
  readonly minor: number;
  readonly patch: number;
  /** As printed, for example `1.17.0-dev`. */
  readonly text: string;
}

export const VERSION_FLOOR = '1.16.1';

/**
 * @param output output of `--version`; 1.16 writes a log line after the first line
 * @returns undefined if it has no version of `program`
 */
export function parseVersion(
  output: string,
  program: 'Firecracker' | 'Jailer' = 'Firecracker',
): FirecrackerVersion | undefined {
  const [line = ''] = output.split('\n', 1);
  const match = /^(Firecracker|Jailer) v((\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:[-+][\w.+-]{0,64})?)$/.exec(line);
  if (match?.[1] !== program) return undefined;
  const [, , text = '', major, minor, patch] = match;
  return { major: Number(major), minor: Number(minor), patch: Number(patch), text };
}

/** Why the version is not supported; undefined if it is. */
export function versionProblem(version: FirecrackerVersion): string | undefined {
  const { major, minor, patch, text } = version;
  if (major !== 1) return `version ${text} is not supported: only 1.x is`;
  const [, minorMin = 0, patchMin = 0] = VERSION_FLOOR.split('.').map(Number);
  const isOlder = minor < minorMin || (minor === minorMin && patch < patchMin);
  return isOlder ? `version ${text} is older than ${VERSION_FLOOR}` : undefined;
}

/** Version-dependent behavior, each from a measurement or from the project's changelog. */
export interface Quirks {
  /**
   * A pause and resume without a snapshot in between leaves the guest's vsock dead for host connections: resume waits
   * for the guest to acknowledge a reset that only a snapshot sends. Each pause takes one (#6100).
   */
  readonly pauseTakesSnapshot: boolean;
}

export function quirksOf({ major, minor }: FirecrackerVersion): Quirks {
  return { pauseTakesSnapshot: major === 1 && minor === 16 };
}
