/** Access to a cgroup file system (I/O). */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { tryOr } from '../../base/ignore.ts';
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
}

/** systemd sets one or both, depending on its version and on whether its manager is root's. */
const DELEGATED = ['user.delegate', 'trusted.delegate'] as const;

export const kernelFiles: CgroupFiles = {
  make: (dir) => mkdirSync(dir),
  remove: (dir) => rmdirSync(dir),
  list: (dir) => readdirSync(dir),
  exists: (path) => existsSync(path),
  read: (path) => readFileSync(path, 'utf8'),
  write: (path, value) => writeFileSync(path, value, { flag: 'r+' }),
  owner: (dir) => statSync(dir).uid,
  isDelegated: (dir) => DELEGATED.some((name) => readAttribute(dir, name, 1) === '1'),
};

/** Words of a file; empty if not readable. */
export function wordsOf(files: CgroupFiles, path: string): Set<string> {
  return tryOr(new Set(), 'the control group is not readable', () => new Set(files.read(path).trim().split(/\s+/)));
}
