/** Directories of the jail that nobody else can have prepared (io). */
import { lstatSync, mkdirSync } from 'node:fs';
import { JailError } from './errors.ts';

const OTHERS_MAY_WRITE = 0o022;

/**
 * Makes `dir`, or takes the one that is there if it is a directory of this user in which nobody else may write.
 * A link is refused, wherever it leads: who planted it would choose where files of root go (CVE-2026-1386).
 * @throws JailError `jail_dir_unsafe`; Error of Node when it can't be made
 */
export function requirePrivateDir(dir: string, mode = 0o700): void {
  mkdirSync(dir, { recursive: true, mode });
  const found = lstatSync(dir);
  const cause = found.isSymbolicLink()
    ? 'it is a symbolic link'
    : !found.isDirectory()
      ? 'it is not a directory'
      : found.uid !== process.geteuid?.()
        ? `it belongs to the user ${found.uid}`
        : (found.mode & OTHERS_MAY_WRITE) !== 0
          ? 'others may write there'
          : undefined;
  if (cause === undefined) return;
  throw new JailError('jail_dir_unsafe', `use the directory ${dir} for jails`, {
    cause,
    remedy: `Find out who made it, then remove ${dir}; it is made again.`,
  });
}
