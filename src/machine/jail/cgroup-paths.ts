/**
 * Finds where this process may create control groups, from /proc. Pure.
 *
 * cgroup v1 has one tree per controller, v2 one for all; hosts have either or a mix, in which a controller is in one of
 * the two. New groups are below this process's own group, so the limits of a container or a service apply to its VMMs
 * too.
 */

/** The controllers that limit a VMM. */
export const CONTROLLERS = ['memory', 'pids', 'cpu', 'blkio'] as const;
export type Controller = (typeof CONTROLLERS)[number];

export interface CgroupPaths {
  /** The directory of this process' group, per controller of v1. */
  readonly v1: ReadonlyMap<Controller, string>;
  /** The same for v2, and the mount that bounds it; `null` without v2. */
  readonly v2: { readonly dir: string; readonly mount: string } | null;
}

/**
 * @param mountinfo /proc/self/mountinfo (proc(5))
 * @param own /proc/self/cgroup (cgroups(7))
 */
export function findCgroups(mountinfo: string, own: string): CgroupPaths {
  const groups = new Map(own.split('\n').flatMap(parseGroup));
  const v1 = new Map<Controller, string>();
  let v2: CgroupPaths['v2'] = null;
  for (const mount of mountinfo.split('\n').flatMap(parseMount)) {
    if (mount.type === 'cgroup2') {
      const dir = below(mount, groups.get(''));
      if (v2 === null && dir !== undefined) v2 = { dir, mount: mount.point };
      continue;
    }
    for (const controller of CONTROLLERS) {
      const dir = mount.options.includes(controller) ? below(mount, groups.get(controller)) : undefined;
      if (dir !== undefined) v1.set(controller, dir);
    }
  }
  return { v1, v2 };
}

interface Mount {
  readonly root: string;
  readonly point: string;
  readonly type: 'cgroup' | 'cgroup2';
  readonly options: readonly string[];
}

/** `31 23 0:28 /root /point rw,… shared:1 - cgroup source rw,memory` */
function parseMount(line: string): Mount[] {
  const [before = '', after = ''] = line.split(' - ');
  const [, , , root = '', point = ''] = before.split(' ');
  const [type = '', , options = ''] = after.split(' ');
  if (type !== 'cgroup' && type !== 'cgroup2') return [];
  return [{ root: plain(root), point: plain(point), type, options: options.split(',') }];
}

/** `4:memory:/path`, `0::/path`: returns a pair per controller. */
function parseGroup(line: string): [string, string][] {
  const match = /^\d+:([^:]*):(\/.*)$/.exec(line);
  if (match === null) return [];
  const [, controllers = '', path = ''] = match;
  return controllers.split(',').map((name) => [name, path]);
}

/** Decodes the octal escapes of blanks and similar characters. */
function plain(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** @returns undefined if the mount does not show the group: it belongs to another namespace */
function below({ root, point }: Mount, path: string | undefined): string | undefined {
  if (path === undefined || path.includes('/..')) return undefined;
  if (root === '/') return `${point}${path === '/' ? '' : path}`;
  if (path === root) return point;
  return path.startsWith(`${root}/`) ? `${point}${path.slice(root.length)}` : undefined;
}
