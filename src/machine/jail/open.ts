/** Finds out whether VMMs can be jailed on this host, by jailing one (I/O). */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, readFileSync, statSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import type { Readable } from 'node:stream';
import { describeError } from '../../base/errors.ts';
import { newSandboxId } from '../../base/ids.ts';
import { awaitOr, tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { hasCapability } from '../../sys/capability.ts';
import { Cgroups, type GroupOwner } from './cgroup.ts';
import { findCgroups } from './cgroup-paths.ts';
import { JailError } from './errors.ts';
import { Identities } from './identity.ts';
import { type Jailed, type JailParts, startJailed, startJailedAsUser } from './jail.ts';
import type { JailPlan, JailTools } from './plan.ts';
import { ProgramTrees } from './program-tree.ts';
import { prepareStage } from './stage.ts';
import type { UidRange } from './user-ids.ts';

interface JailOptions {
  /** Private to this user: copies of the VMM's program and libraries, one per version. */
  readonly cacheDir: string;
  /** The same for all processes of the host. */
  readonly stateDir: string;
  /** A PATH to find bubblewrap and the programs of util-linux. */
  readonly searchPath: string;
  /** The program, first, and the files that it opens; absolute paths. If empty, plans name them. */
  readonly programFiles: readonly string[];
  /** Arguments with which the program prints something and exits with 0 at once. */
  readonly probeArgs: readonly string[];
  /** `struct sock_filter[]`. */
  readonly filter: Uint8Array;
  readonly uids: UidRange;
  /** The group that may open the devices that VMMs need; `null` if none. */
  readonly deviceGid: number | null;
  /** False: VMMs of root also keep its user id. Default: VMMs of root have their own user ids. */
  readonly ownUsers?: boolean;
  /** Owns the VMMs that outlive this process. Default: none does. */
  readonly keeper?: GroupOwner | undefined;
  readonly log: Log;
}

export interface JailGap {
  readonly text: string;
  /** One imperative sentence without a full stop. */
  readonly remedy: string;
}

export interface Jail {
  /** List of enforced protections: `own user, namespaces, …`. */
  readonly description: string;
  /** Protections that this host can't enforce. */
  readonly gaps: readonly JailGap[];
  /** Its VMMs can outlive this process: they have a keeper. */
  readonly outlives: boolean;
  start(plan: JailPlan): Promise<Jailed>;
  /** Starts at once. Only for a jail without program files and without its own user. */
  startAsUser(plan: JailPlan): Jailed;
  /** Call it after all VMs have ended. */
  close(): Promise<void>;
}

const PROBE_OUTPUT_BYTES_MAX = 4 * 1024;
const PROBE_MEMORY_MIB = 64;

/** @throws JailError `jail_unavailable`, `jail_dir_unsafe` */
export async function openJail(options: JailOptions): Promise<Jail> {
  const { log } = options;
  const tools = findTools(options.searchPath);
  requireUserNamespaces();
  const hasOwnUsers = options.ownUsers !== false && isRootWith(NEEDED_CAPABILITIES);
  const identities = hasOwnUsers
    ? new Identities(join(options.stateDir, 'jail'), options.uids, options.deviceGid)
    : null;
  const trees =
    options.programFiles.length === 0 ? null : new ProgramTrees(join(options.cacheDir, 'jail'), options.programFiles);
  const cgroups = await openCgroups(log, options.keeper);
  const orphans = identities?.endOrphans() ?? 0;
  if (orphans > 0) log.info('ended VMMs whose owner was killed', { count: orphans });
  const parts: JailParts = {
    tools,
    trees,
    identities,
    stage: identities === null ? null : prepareStage(options.stateDir),
    log,
    filter: options.filter,
    cgroups: cgroups?.controllers.length === 0 ? null : cgroups,
  };
  try {
    identities?.prepare();
    const tree = await trees?.current();
    if (tree !== undefined) await probe(parts, options, tree.dir);
  } catch (error) {
    await Promise.all([identities?.close(), trees?.close()]);
    throw error;
  }
  return {
    description: [
      ...(hasOwnUsers ? ['own user'] : []),
      'own namespaces',
      'empty root',
      'no capabilities',
      'seccomp',
      ...(parts.cgroups === null ? [] : [parts.cgroups.description]),
    ].join(', '),
    outlives: options.keeper !== undefined,
    gaps: [
      ...(hasOwnUsers
        ? []
        : [
            {
              text: 'VMMs run as this user: only root with all capabilities can give them their own',
              remedy: 'run NeuroVisor as root',
            },
          ]),
      ...limitGaps(cgroups),
    ],
    start: (plan) => startJailed(parts, plan),
    startAsUser: (plan) => startJailedAsUser(parts, plan),
    close: async () => {
      await Promise.all([identities?.close(), trees?.close()]);
    },
  };
}

/** The gap of missing limits, if any. @param cgroups `null` if none can be used */
export function limitGaps(cgroups: Cgroups | null): JailGap[] {
  if (cgroups === null) {
    const text = 'no limit of memory, pids: control groups can not be used';
    return [{ text, remedy: 'see the warning before this one' }];
  }
  const { missing } = cgroups;
  if (missing === null) return [];
  const { names, cause, remedy } = missing;
  return [{ text: `no limit of ${names}: ${cause}`, remedy }];
}

/**
 * Removes the groups of killed NeuroVisors.
 * @param kept with a keeper: its VMs that stay. Default: all
 * @returns `null`, with a warning in the log, if none can be used
 */
export async function openCgroups(log: Log, keeper?: GroupOwner, kept?: ReadonlySet<string>): Promise<Cgroups | null> {
  try {
    const read = (name: string): string => readFileSync(`/proc/self/${name}`, 'utf8');
    const cgroups = new Cgroups(findCgroups(read('mountinfo'), read('cgroup')), undefined, undefined, log, keeper);
    const reclaimed = await cgroups.reclaim(kept);
    if (reclaimed > 0) log.info('removed control groups of VMMs that ran no more', { reclaimed });
    return cgroups;
  } catch (error) {
    log.warn('control groups can not be used', { reason: describeError(error) });
    return null;
  }
}

/** Capabilities needed to run VMMs as other users (linux/capability.h). */
export const NEEDED_CAPABILITIES = { CHOWN: 0, DAC_OVERRIDE: 1, KILL: 5, SETGID: 6, SETUID: 7, SYS_ADMIN: 21 };

/** Whether this process is root with these capabilities. */
export function isRootWith(capabilities: Readonly<Record<string, number>>): boolean {
  return process.geteuid?.() === 0 && Object.values(capabilities).every(hasCapability);
}

/** The limit of this process's own namespace (namespaces(7)). */
const NAMESPACES_MAX = '/proc/sys/user/max_user_namespaces';

/** Every jail needs a user namespace. Checked each time, since the setting may change while the host runs. */
function requireUserNamespaces(): void {
  if (readSetting(NAMESPACES_MAX) !== '0') return;
  throw new JailError('jail_unavailable', 'could not make a user namespace', {
    cause: 'this host allows none (user.max_user_namespaces is 0)',
    remedy: 'Allow some: sysctl -w user.max_user_namespaces=10000, and in /etc/sysctl.d for later.',
  });
}

/**
 * Fails if this host certainly denies user namespaces to this user. Can't tell without bubblewrap, which set-up
 * installs.
 * @throws JailError `jail_unavailable`
 */
export async function checkNamespaces(searchPath: string): Promise<void> {
  requireUserNamespaces();
  const bwrap = findProgram(searchPath, 'bwrap');
  // Root makes the namespaces of its VMMs itself.
  if (bwrap === undefined || isRootWith(NEEDED_CAPABILITIES)) return;
  const namespaces = ['--unshare-user', '--unshare-net', '--unshare-pid', '--unshare-ipc'];
  const args = [...namespaces, '--ro-bind', '/', '/', '--', bwrap, '--version'];
  const words = await new Promise<string | null>((resolve) => {
    execFile(bwrap, args, { timeout: TRY_MS_MAX }, (error, _, stderr) =>
      resolve(error === null ? null : stderr.trim().slice(0, PROBE_OUTPUT_BYTES_MAX)),
    );
  });
  if (words === null) return;
  throw new JailError('jail_unavailable', 'could not make a user namespace', {
    cause: words === '' ? 'bubblewrap failed' : words,
    remedy: namespaceRemedy(readSetting),
  });
}

const TRY_MS_MAX = 10_000;

/** @param read returns a kernel setting, or null if the kernel does not have it */
export function namespaceRemedy(read: (path: string) => string | null): string {
  if (read('/proc/sys/kernel/unprivileged_userns_clone') === '0') {
    return 'Allow user namespaces (sudo sysctl -w kernel.unprivileged_userns_clone=1), or run as root.';
  }
  if (read('/proc/sys/kernel/apparmor_restrict_unprivileged_userns') === '1') {
    return 'Allow user namespaces to bubblewrap by an AppArmor profile (docs/security.md, Hosts) or to all (sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0), or run as root.';
  }
  return 'Let this user make user namespaces (sysctl user.max_user_namespaces; in a container its seccomp profile), or run as root.';
}

/** @returns null if the kernel does not have this file */
export function readSetting(path: string): string | null {
  return tryOr(null, 'the kernel does not have it', () => readFileSync(path, 'utf8').trim());
}

function findTools(searchPath: string): JailTools {
  const find = (name: string, packageName: string): string => {
    const path = findProgram(searchPath, name);
    if (path !== undefined) return path;
    throw new JailError('jail_unavailable', `could not find ${name} in PATH`, {
      cause: 'it is not installed',
      remedy: `Install it: apt-get install ${packageName}, or run ./neurovisor setup as root.`,
    });
  };
  return {
    bwrap: find('bwrap', 'bubblewrap'),
    setpriv: find('setpriv', 'util-linux'),
    nsenter: find('nsenter', 'util-linux'),
    unshare: find('unshare', 'util-linux'),
    mount: find('mount', 'mount'),
    sh: find('sh', 'dash'),
  };
}

function findProgram(searchPath: string, name: string): string | undefined {
  for (const dir of searchPath.split(delimiter)) {
    const path = join(dir, name);
    if (dir.startsWith('/') && isExecutable(path)) return path;
  }
  return undefined;
}

function isExecutable(path: string): boolean {
  return tryOr(false, 'not in this folder', () => {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  });
}

/** Runs once per boot of the host and version of the programs; takes 50 ms. */
async function probe(parts: JailParts, options: JailOptions, treeDir: string): Promise<void> {
  const stampPath = join(options.cacheDir, 'jail', 'probed');
  const stamp = stampOf(parts, options, treeDir);
  if ((await awaitOr(undefined, 'no probe has run yet', () => readFile(stampPath, 'utf8'))) === stamp) return;
  const base = join(options.cacheDir, 'jail');
  await mkdir(base, { recursive: true, mode: 0o700 });
  // A directory of its own: another jail may be probed at the same time, also by this process, or its probe may have
  // been killed.
  const dir = await mkdtemp(join(base, 'probe-'));
  try {
    await probeIn(dir, parts, options);
    const written = join(dir, 'stamp');
    await writeFile(written, stamp);
    await rename(written, stampPath);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function probeIn(dir: string, parts: JailParts, options: JailOptions): Promise<void> {
  const [program = ''] = options.programFiles;
  const jailed = await startJailed(parts, {
    // Its control group is named after it.
    id: newSandboxId(),
    argv: [program, ...options.probeArgs],
    // Not /dev/null: the C library would ask a device whether it is a terminal, with a syscall that VMMs may not make.
    stdio: ['ignore', 'pipe', 'pipe'],
    dir,
    files: [],
    memoryMib: PROBE_MEMORY_MIB,
    cpus: 1,
  });
  jailed.child.stdout?.resume();
  let words = '';
  (jailed.child.stderr as Readable).on('data', (bytes: Buffer) => {
    words = (words + bytes.toString('utf8')).slice(0, PROBE_OUTPUT_BYTES_MAX);
  });
  const status = await new Promise((resolve) => jailed.child.once('close', resolve));
  const pid = await jailed.pid.catch((error: unknown) => describeError(error));
  await jailed.release();
  if (status !== 0) {
    const how = words.trim() || (typeof pid === 'string' ? pid : `it ended with ${String(status)}`);
    throw new JailError('jail_unavailable', 'could not start a VMM in a jail', {
      cause: how,
      remedy: namespaceRemedy(readSetting),
    });
  }
}

function stampOf(parts: JailParts, options: JailOptions, treeDir: string): string {
  const { tools, filter } = parts;
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  const bwrap = statSync(tools.bwrap);
  const facts = [
    bootId,
    treeDir,
    tools.bwrap,
    bwrap.ino,
    bwrap.mtimeMs,
    process.geteuid?.(),
    parts.identities !== null,
    parts.cgroups?.controllers,
    options.uids,
    options.deviceGid,
  ];
  return createHash('sha256').update(JSON.stringify(facts)).update(filter).digest('hex');
}
