/** The jailer's command line (firecracker docs/jailer.md); pure. */
import { basename } from 'node:path';
import type { DiskLimits } from '../../driver.ts';
import { VmmError } from '../../errors.ts';

/** The jail of one VM. The caller makes sure that no two VMs share a uid. */
export interface JailSpec {
  /** Absolute path of the jailer, of the same version as Firecracker. */
  readonly jailer: string;
  /**
   * Base directory of jails: root's, 0700, on the file system of the VMs' directories, which must not be mounted
   * `nodev`.
   */
  readonly baseDir: string;
  readonly uid: number;
  readonly gid: number;
  /** The network namespace with the VM's TAP, for example `/run/netns/x`. Default: the jailer's. */
  readonly netnsPath?: string;
  readonly cgroup?: {
    readonly version: 1 | 2;
    /** Relative to the root of the hierarchy. */
    readonly parent?: string;
    readonly settings: readonly string[];
  };
  /**
   * A command that runs the jailer in namespaces, a control group and limits. Its only descendant without children
   * becomes Firecracker; it exits with Firecracker's status, 128 + n for signal n.
   */
  readonly wrapper?: readonly string[];
  /** Number of the wrapper's seccomp filters, beside Firecracker's own on each thread. Default: 0. */
  readonly filters?: number;
  /** Sets the limits of the process's disk I/O to those of its guest. */
  readonly limitDisks?: (limits: DiskLimits) => void;
  /** Called once the VM has ended and its jail is removed or was never made. */
  readonly release?: () => Promise<void>;
}

/** For the API, KVM, event counters, disks, the TAP, and each connection of the channel. */
export const DESCRIPTORS_MAX = 4_096;
const UID_MAX = 2 ** 32 - 2;

/** The ids that the jailer accepts; in particular no dot and no slash. */
const ID = /^[A-Za-z0-9-]{1,64}$/;
const SETTING = /^[a-z0-9_]+(\.[a-z0-9_]+)+=[A-Za-z0-9 _.:/-]{1,128}$/;
const GROUP = /^[A-Za-z0-9_.-]+(\/[A-Za-z0-9_.-]+)*$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern refuses them
const PLAIN_PATH = /^\/[^\u0000-\u001f\u007f]*$/;

/**
 * @param binary absolute, without symbolic links
 * @param args Firecracker's own
 * @throws VmmError `vm_spec_invalid` that names the field
 */
export function jailerArgs(jail: JailSpec, id: string, binary: string, args: readonly string[]): string[] {
  const { cgroup, netnsPath } = jail;
  if (!ID.test(id)) throw invalid('id', id);
  for (const number of [jail.uid, jail.gid]) {
    // Root in the jail could leave it.
    if (!Number.isSafeInteger(number) || number < 1 || number > UID_MAX) throw invalid('user', number);
  }
  for (const path of [jail.jailer, jail.baseDir, binary, ...(netnsPath === undefined ? [] : [netnsPath])]) {
    if (!PLAIN_PATH.test(path) || path.split('/').includes('..')) throw invalid('path', path);
  }
  for (const setting of cgroup?.settings ?? []) {
    if (!SETTING.test(setting)) throw invalid('cgroup setting', setting);
  }
  if (cgroup?.parent !== undefined) {
    const parts = cgroup.parent.split('/');
    if (!GROUP.test(cgroup.parent) || parts.includes('..') || parts.includes('.'))
      throw invalid('cgroup', cgroup.parent);
  }
  return [
    ...(jail.wrapper ?? []),
    [jail.jailer, '--id', id, '--exec-file', binary],
    ['--uid', `${jail.uid}`, '--gid', `${jail.gid}`, '--chroot-base-dir', jail.baseDir],
    ['--resource-limit', `no-file=${DESCRIPTORS_MAX}`],
    ...(netnsPath === undefined ? [] : ['--netns', netnsPath]),
    ...(cgroup === undefined ? [] : ['--cgroup-version', `${cgroup.version}`]),
    ...(cgroup?.parent === undefined ? [] : ['--parent-cgroup', cgroup.parent]),
    ...(cgroup?.settings ?? []).flatMap((setting) => ['--cgroup', setting]),
    ['--', ...args],
  ].flat();
}

/** The folder of a jail, relative to the base; contains `root`. */
export function jailFolder(binary: string, id: string): string {
  return `${basename(binary)}/${id}`;
}

function invalid(what: string, value: unknown): VmmError {
  return new VmmError('vm_spec_invalid', `the jail's ${what} can't be used`, {
    cause: JSON.stringify(value)?.slice(0, 120),
  });
}
