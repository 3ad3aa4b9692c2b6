/** Directories that no other user can have prepared (I/O). */
import { lstatSync, statSync } from 'node:fs';

const OTHERS_MAY_WRITE = 0o022;
const STICKY = 0o1000;
const ROOT = 0;

/**
 * Why a directory is not private: this user must own it and no other may write to it. Undefined if it is private or
 * missing. A symbolic link is never private: an attacker who planted it would choose where root's files go
 * (CVE-2026-1386).
 */
export function privateDirFault(dir: string): string | undefined {
  const found = lstatSync(dir, { throwIfNoEntry: false });
  if (found === undefined) return undefined;
  if (found.isSymbolicLink()) return 'it is a symbolic link';
  if (!found.isDirectory()) return 'it is not a directory';
  if (found.uid !== process.geteuid?.()) return `its owner is user ${found.uid}`;
  return (found.mode & OTHERS_MAY_WRITE) === 0 ? undefined : 'other users can write to it';
}

/** Why other users could rename or replace this user's entries of a directory such as /tmp; undefined if they can't. */
export function sharedDirFault(dir: string): string | undefined {
  const found = statSync(dir, { throwIfNoEntry: false });
  if (found === undefined) return undefined;
  const { uid, mode } = found;
  if (uid !== ROOT && uid !== process.geteuid?.()) return `the owner of ${dir} is user ${uid}`;
  const isOpen = (mode & OTHERS_MAY_WRITE) !== 0 && (mode & STICKY) === 0;
  return isOpen ? `other users can rename entries of ${dir}: it has no sticky bit` : undefined;
}

/** The remedy for a file of the home that another user owns, most likely after `sudo -E`. @param uid the owner's */
export function otherOwnerRemedy(uid: number): string {
  const own = process.geteuid?.() ?? 0;
  return `Run NeuroVisor as user ${uid}, or give user ${own} a home of its own: NEUROVISOR_HOME=DIR. With sudo, omit -E, which keeps the home of the other user.`;
}
