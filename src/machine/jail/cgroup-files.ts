/** Access to a cgroup file system (I/O). */
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tryOr } from '../../base/ignore.ts';
import { tryLockExclusive, tryLockShared } from '../../sys/file.ts';
import { readAttribute } from '../../sys/xattr.ts';

/** The operations on a cgroup file system. Errors are Node's. */
export interface CgroupFiles {
  make(dir: string): void;
  remove(dir: string): void;
  list(dir: string): readonly string[];
  exists(path: string): boolean;
  read(path: string): string;
  write(path: string, value: string): void;
  owner(dir: string): number;
  /** Whether systemd has marked the group as delegated to its service (`Delegate=`, systemd.resource-control(5)). */
  isDelegated(dir: string): boolean;
  /** Marks the group as one that this process works with, until it removes it or ends. Idempotent. */
  hold(dir: string): void;
  /** Whether a process that lives holds the group. */
  isHeld(dir: string): boolean;
}

/** A lock on the directory (flock(2)) of each held group. */
const held = new Map<string, number>();

/** systemd sets one or both, depending on its version and on whether its manager is root's. */
const DELEGATED = ['user.delegate', 'trusted.delegate'] as const;

export const kernelFiles: CgroupFiles = {
  make: (dir) => mkdirSync(dir),
  remove: (dir) => {
    rmdirSync(dir);
    const fd = held.get(dir);
    if (fd !== undefined) closeSync(fd);
    held.delete(dir);
  },
  list: (dir) => readdirSync(dir),
  exists: (path) => existsSync(path),
  read: (path) => readFileSync(path, 'utf8'),
  write: (path, value) => writeFileSync(path, value, { flag: 'r+' }),
  owner: (dir) => statSync(dir).uid,
  isDelegated: (dir) => DELEGATED.some((name) => readAttribute(dir, name, 1) === '1'),
  hold: (dir) => {
    if (held.has(dir)) return;
    const fd = openSync(dir, 'r');
    held.set(dir, fd);
    tryLockShared(fd);
  },
  isHeld: (dir) => held.has(dir) || tryOr(false, 'the control group is gone', () => isLocked(dir)),
};

function isLocked(dir: string): boolean {
  const fd = openSync(dir, 'r');
  try {
    return !tryLockExclusive(fd);
  } finally {
    closeSync(fd);
  }
}

/** Words of a file; empty if not readable. */
export function wordsOf(files: CgroupFiles, path: string): Set<string> {
  return tryOr(new Set(), 'the control group is not readable', () => new Set(files.read(path).trim().split(/\s+/)));
}
