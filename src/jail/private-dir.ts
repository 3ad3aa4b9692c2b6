/** Directories of the jail that no other user can have prepared (io). */
import { lstatSync, mkdirSync } from 'node:fs';
import { JailError } from './errors.ts';

const OTHERS_MAY_WRITE = 0o022;

/**
 * Creates `dir`, or accepts an existing directory that this user owns and no other can write to. A symbolic link is
 * always refused: whoever planted it would choose where root's files go (CVE-2026-1386).
 * @throws JailError `jail_dir_unsafe`; Error of Node if it can't be created
 */
export function requirePrivateDir(dir: string, mode = 0o700): void {
  mkdirSync(dir, { recursive: true, mode });
  const found = lstatSync(dir);
  const cause = found.isSymbolicLink()
    ? 'it is a symbolic link'
    : !found.isDirectory()
      ? 'it is not a directory'
      : found.uid !== process.geteuid?.()
        ? `its owner is user ${found.uid}`
        : (found.mode & OTHERS_MAY_WRITE) !== 0
          ? 'other users can write to it'
          : undefined;
  if (cause === undefined) return;
  throw new JailError('jail_dir_unsafe', `could not use the directory ${dir} for jails`, {
    cause,
    remedy: `Find out who made it, then remove ${dir}; NeuroVisor creates it again.`,
  });
}
