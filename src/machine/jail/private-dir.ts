/** Directories of the jail that no other user can have prepared (I/O). */
import { lstatSync, mkdirSync } from 'node:fs';
import { otherOwnerRemedy, privateDirFault } from '../../base/private-dir.ts';
import { JailError } from './errors.ts';

/**
 * Creates `dir`, or accepts an existing private directory.
 * @throws JailError `jail_dir_unsafe`; a Node error if it can't be created
 */
export function requirePrivateDir(dir: string): void {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const cause = privateDirFault(dir);
  if (cause === undefined) return;
  const { uid } = lstatSync(dir);
  const isOthers = uid !== process.geteuid?.();
  throw new JailError('jail_dir_unsafe', `could not use the directory ${dir} for jails`, {
    cause,
    remedy: isOthers
      ? `${otherOwnerRemedy(uid)} If that user should have nothing here, remove ${dir}.`
      : `Find out which program made it, then remove ${dir}; NeuroVisor creates it again.`,
  });
}
