/** The plan of a jail, and its command line. Pure: argument arrays in which no caller's text is parsed as an option. */
import { basename, join } from 'node:path';
import { assert } from '../../base/assert.ts';
import type { DiskLimits } from '../../base/request/disk-limits.ts';
import { JailError } from './errors.ts';
import type { ProgramTree } from './program-tree.ts';

/** Indexed by the VMM's descriptor; a number is one of our descriptors that it inherits. */
type JailStdio = ('ignore' | 'pipe' | number)[];

export interface JailFile {
  readonly path: string;
  /** Path in the jail. Default: the same. Later files may be inside earlier directories, at names that exist there. */
  readonly at?: string;
  /**
   * `tree`: a directory, read-only. `write`: a file in the VM's own directory. `own`: a directory there, in which the
   * VMM may create and remove names; not for a VMM with its own user. `device`: read and write, and ioctl.
   */
  readonly access: 'read' | 'tree' | 'write' | 'own' | 'device';
}

export interface JailPlan {
  /** The VM's id, `[a-z0-9]+`. */
  readonly id: string;
  /** The program by its absolute path, and its arguments. */
  readonly argv: readonly string[];
  readonly stdio: Readonly<JailStdio>;
  readonly dir: string;
  /** Files that it opens by path; the jail shows only these and its program's own. */
  readonly files: readonly JailFile[];
  /** Working directory in the jail. Default: the root. */
  readonly cwd?: string;
  /** The guest's size and limits. */
  readonly memoryMib: number;
  /** Memory of others that it maps, MiB: the kernel charges a page to the first process that touches it. Default 0. */
  readonly sharedMib?: number;
  /** `struct sock_filter[]`, instead of the jail's own. */
  readonly filter?: Uint8Array;
  readonly cpus: number;
  readonly diskLimits?: DiskLimits;
  /** Its environment. Default: empty. */
  readonly env?: Readonly<Record<string, string>>;
  /** False: CPU time is not limited. Default: true, its processors and one more. */
  readonly hasCpuLimit?: boolean;
  /** Processes and threads. Default: enough for a VMM with these processors. */
  readonly tasksMax?: number;
  /** True: it loads a driver, which reads /proc/self and writes to /tmp. Default: false. */
  readonly hasDriver?: boolean;
  /** Open descriptors. Default: enough for a VMM. */
  readonly openFilesMax?: number;
  /** False: the kernel gives it no transparent huge pages, even if it requests them. Default: true. */
  readonly hugePages?: boolean;
  /** True: once its limits are set, it outlives this process (`Cgroups` names its owner). Default: it ends with it. */
  readonly outlives?: boolean;
}

const ID = /^[a-z0-9]{1,64}$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern refuses them
const PATH = /^(\/[^/\u0000-\u001f\u007f]+)+$/;
/** A large model has a file for each of its parts; the engine needs some 30 others. */
export const FILES_MAX = 128;

/**
 * Checks the texts, which become arguments and mounts of a program that may run as root. Numbers were checked with the
 * request.
 * @throws JailError `jail_plan_invalid` that names the field
 */
export function checkPlan(plan: JailPlan): void {
  if (!ID.test(plan.id)) throw invalid('id', `${JSON.stringify(plan.id.slice(0, 80))} is not [a-z0-9]+`);
  checkPath('program', plan.argv[0] ?? '');
  checkPath('directory', plan.dir);
  if (plan.files.length > FILES_MAX) throw invalid('files', `more than ${FILES_MAX}`);
  checkPath('directory', plan.cwd ?? plan.dir);
  for (const { path, at, access } of plan.files) {
    checkPath('files', path);
    checkPath('files', at ?? path);
    if (access === 'own' && !path.startsWith(`${plan.dir}/`)) {
      throw invalid('files', `${path} is writable but not in the VM's directory`);
    }
    if (access === 'write' && path !== join(plan.dir, basename(path))) {
      throw invalid('files', `${path} is writable but not in the VM's directory`);
    }
    if (access === 'device' && !path.startsWith('/dev/')) throw invalid('files', `${path} is not a device`);
  }
  for (const field of ['memoryMib', 'cpus'] as const) {
    assert(Number.isSafeInteger(plan[field]) && plan[field] >= 1, `${field} is ${plan[field]}`);
  }
}

function checkPath(field: string, path: string): void {
  const isPlain = PATH.test(path) && !path.split('/').some((part) => part === '.' || part === '..');
  if (!isPlain) throw invalid(field, `${JSON.stringify(path.slice(0, 200))} is not a plain absolute path`);
}

export function invalid(field: string, cause: unknown, remedy?: string): JailError {
  return new JailError('jail_plan_invalid', `cannot make a jail with this ${field}`, {
    cause,
    ...(remedy === undefined ? {} : { remedy }),
  });
}

/** The programs that make a jail, by absolute path. */
export interface JailTools {
  readonly bwrap: string;
  readonly setpriv: string;
  readonly nsenter: string;
  readonly unshare: string;
  readonly mount: string;
  readonly sh: string;
}

/** bubblewrap's descriptors, after the VMM's. */
interface JailFds {
  /** bubblewrap writes the VMM's pid here. */
  readonly info: number;
  /** bubblewrap waits here before it starts the VMM. */
  readonly block: number;
  readonly seccomp: number;
}

/** The VMM's user, and what bubblewrap needs to run as that user. */
export interface JailUser {
  /** The user namespace to enter. */
  readonly namespacePath: string;
  /** Location of the tree and the files once `tablePath` is mounted. */
  readonly stageDir: string;
  /** The list of mounts, in the format of fstab(5). */
  readonly tablePath: string;
}

/** Paths below `stageDir`. */
export const stagedTree = (dir: string): string => join(dir, 'tree');
export const stagedFile = (dir: string, index: number, access: JailFile['access']): string =>
  join(dir, `${access === 'tree' ? 'd' : 'f'}${index}`);

/** Mounts the table, then executes the rest. */
const STAGE = '"$1" -n -a -T "$2" && shift 2 && exec "$@"';

/** The owner may have been killed before the tie: then its signal never comes. */
const ALIVE = '[ "$PPID" = "$1" ] && shift && exec "$@"';

/** @param options.user `null`: bubblewrap makes a user namespace with this process's user alone */
export function jailCommand(
  plan: Pick<JailPlan, 'id' | 'argv' | 'files' | 'cwd' | 'env' | 'hasDriver' | 'outlives'>,
  options: {
    readonly tools: JailTools;
    readonly tree: ProgramTree;
    readonly user: JailUser | null;
    readonly fds: JailFds;
    readonly owner: number;
  },
): string[] {
  const { tools, tree, user, fds, owner } = options;
  // From here on it dies with its parent; bubblewrap sets the same for itself and the VMM. One that outlives this
  // process is untied as bubblewrap, which waits for the limits: `endUnfinishedStarts` finds it there.
  const tie = [tools.setpriv, '--pdeathsig', 'KILL'];
  const alive = [tools.sh, '-c', ALIVE, 'sh', `${owner}`];
  // bubblewrap inherits its capabilities, so that no program started by the VMM can gain any. Two steps: a capability
  // outside the bounding set can't be made inheritable.
  const bound = ['--inh-caps', '+all', '--', tools.setpriv, '--bounding-set', '-all'];
  const treeDir = user === null ? tree.dir : stagedTree(user.stageDir);
  return [
    ...(user === null ? tie : [...enter(tools, user), ...tie, ...bound]),
    '--',
    ...alive,
    ...(plan.outlives === true ? [tools.setpriv, '--pdeathsig', 'clear', '--'] : []),
    tools.bwrap,
    ...(user === null ? ['--unshare-user', '--uid', '65534', '--gid', '65534'] : []),
    // `endUnfinishedStarts` recognizes the process by it.
    ['--hostname', plan.id],
    ['--unshare-pid', '--unshare-net', '--unshare-ipc', '--unshare-uts', '--unshare-cgroup-try'],
    [
      '--as-pid-1',
      ...(plan.outlives === true ? [] : ['--die-with-parent']),
      '--new-session',
      '--cap-drop',
      'ALL',
      '--clearenv',
    ],
    ['--info-fd', `${fds.info}`, '--block-fd', `${fds.block}`, '--seccomp', `${fds.seccomp}`],
    ...tree.entries.flatMap((name) => ['--ro-bind', join(treeDir, name), `/${name}`]),
    // From /proc only the program's own descriptors: its RAM is one of them.
    plan.hasDriver === true
      ? ['--ro-bind', '/proc/self', '/proc/self', '--tmpfs', '/tmp']
      : ['--ro-bind', '/proc/self/fd', '/proc/self/fd'],
    ...plan.files.flatMap(({ path, at = path, access }, index) => {
      const isStaged = user !== null && access !== 'device';
      return [MOUNT[access], isStaged ? stagedFile(user.stageDir, index, access) : path, at];
    }),
    ...Object.entries(plan.env ?? {}).flatMap(([name, value]) => ['--setenv', name, value]),
    ['--remount-ro', '/', '--chdir', plan.cwd ?? '/', '--'],
    ...plan.argv,
  ].flat();
}

/** Shows the files to the user in a mount namespace, then becomes the user. */
function enter(tools: JailTools, { namespacePath, tablePath }: JailUser): string[] {
  const stage = [tools.sh, '-c', STAGE, 'sh', tools.mount, tablePath];
  const become = [tools.nsenter, `--user=${namespacePath}`, '--setuid', '0', '--setgid', '0'];
  return [tools.unshare, '--mount', '--propagation', 'slave', '--', ...stage, ...become, '--'];
}

const MOUNT = { read: '--ro-bind', tree: '--ro-bind', write: '--bind', own: '--bind', device: '--dev-bind' } as const;
