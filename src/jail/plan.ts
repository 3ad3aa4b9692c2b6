/**
 * What is to be jailed, and the command line that does it. The command line is pure: argument arrays, in
 * which nothing that a caller says is taken for an option.
 */
import { basename, join } from 'node:path';
import { assert } from '../base/assert.ts';
import type { DiskLimits } from '../base/disk-limits.ts';
import { JailError } from './errors.ts';
import type { ProgramTree } from './program-tree.ts';

/** By descriptor of the VMM; a number is one of ours, which it inherits. */
type JailStdio = ('ignore' | 'pipe' | number)[];

interface JailFile {
  /** The same in the jail. */
  readonly path: string;
  /** `write`: only in the VM's own directory. `device`: read and write, and ioctl. */
  readonly access: 'read' | 'write' | 'device';
}

export interface JailPlan {
  /** Of the VM, `[a-z0-9]+`. */
  readonly id: string;
  /** The program by its absolute path, and its arguments. */
  readonly argv: readonly string[];
  readonly stdio: Readonly<JailStdio>;
  /** The VM's own, private directory. */
  readonly dir: string;
  /** What it opens by path; it sees no other file but its program's own. */
  readonly files: readonly JailFile[];
  /** Of the guest. */
  readonly memoryMib: number;
  /** Of the guest. */
  readonly cpus: number;
  /** Of the guest. */
  readonly diskLimits?: DiskLimits;
}

const ID = /^[a-z0-9]{1,64}$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
const PATH = /^(\/[^/\u0000-\u001f\u007f]+)+$/;
const FILES_MAX = 16;

/**
 * What a look at the texts can tell: they become arguments and mounts of a program that may run as root. Numbers were
 * judged with the request.
 * @throws JailError `jail_plan_invalid` that names the field
 */
export function checkPlan(plan: JailPlan): void {
  if (!ID.test(plan.id))
    throw invalid('id', `${JSON.stringify(plan.id.slice(0, 80))} is not [a-z0-9]+`);
  checkPath('program', plan.argv[0] ?? '');
  checkPath('directory', plan.dir);
  if (plan.files.length > FILES_MAX) throw invalid('files', `more than ${FILES_MAX}`);
  for (const { path, access } of plan.files) {
    checkPath('files', path);
    if (access === 'write' && path !== join(plan.dir, basename(path))) {
      throw invalid('files', `${path} would be written to, and is not in the directory of the VM`);
    }
    if (access === 'device' && !path.startsWith('/dev/'))
      throw invalid('files', `${path} is no device`);
  }
  for (const field of ['memoryMib', 'cpus'] as const) {
    assert(Number.isSafeInteger(plan[field]) && plan[field] >= 1, `${field} is ${plan[field]}`);
  }
}

function checkPath(field: string, path: string): void {
  const isPlain = PATH.test(path) && !path.split('/').some((part) => part === '.' || part === '..');
  if (!isPlain)
    throw invalid(field, `${JSON.stringify(path.slice(0, 200))} is no plain absolute path`);
}

export function invalid(field: string, cause: unknown, remedy?: string): JailError {
  return new JailError('jail_plan_invalid', `the VM can't be jailed with this ${field}`, {
    cause,
    ...(remedy === undefined ? {} : { remedy }),
  });
}

/** The programs that make a jail, by absolute path. */
export interface JailTools {
  readonly bwrap: string;
  readonly setpriv: string;
  readonly nsenter: string;
}

/** Descriptors of bubblewrap, beyond those of the VMM. */
interface JailFds {
  /** It tells the VMM's pid there. */
  readonly info: number;
  /** It waits there before it starts the VMM. */
  readonly block: number;
  readonly seccomp: number;
}

/** @param namespacePath of the user namespace that it gets; null: bubblewrap makes one, of this user alone */
export function jailCommand(
  plan: Pick<JailPlan, 'argv' | 'files'>,
  options: {
    readonly tools: JailTools;
    readonly tree: ProgramTree;
    readonly namespacePath: string | null;
    readonly fds: JailFds;
  },
): string[] {
  const { tools, tree, namespacePath, fds } = options;
  const enter = [tools.nsenter, `--user=${namespacePath}`, '--setuid', '0', '--setgid', '0', '--'];
  // From here on it dies with its parent; bubblewrap says so again for itself and for the VMM.
  const tie = [tools.setpriv, '--pdeathsig', 'KILL'];
  // Capabilities come to bubblewrap by inheritance, so that no program that the VMM could start may get any.
  // Two steps: who has left the bounding set may not add to what is inherited.
  const bound = ['--inh-caps', '+all', '--', tools.setpriv, '--bounding-set', '-all'];
  return [
    ...(namespacePath === null ? tie : [...enter, ...tie, ...bound]),
    '--',
    tools.bwrap,
    ...(namespacePath === null ? ['--unshare-user', '--uid', '65534', '--gid', '65534'] : []),
    ['--unshare-pid', '--unshare-net', '--unshare-ipc', '--unshare-uts', '--unshare-cgroup-try'],
    ['--as-pid-1', '--die-with-parent', '--new-session', '--cap-drop', 'ALL', '--clearenv'],
    ['--info-fd', `${fds.info}`, '--block-fd', `${fds.block}`, '--seccomp', `${fds.seccomp}`],
    ...tree.entries.flatMap((name) => ['--ro-bind', join(tree.dir, name), `/${name}`]),
    // Its own descriptors and nothing else of /proc: its RAM is one of them.
    ['--ro-bind', '/proc/self/fd', '/proc/self/fd'],
    ...plan.files.flatMap(({ path, access }) => [MOUNT[access], path, path]),
    ['--remount-ro', '/', '--chdir', '/', '--'],
    ...plan.argv,
  ].flat();
}

const MOUNT = { read: '--ro-bind', write: '--bind', device: '--dev-bind' } as const;
