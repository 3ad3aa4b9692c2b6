/**
 * The jail around Firecracker: its own jailer, plus the protections that our jail has for QEMU.
 *
 *     setpriv ── prlimit ── sh ── unshare ─┬─ waits
 *     ends with us          control group  └─ sh, first in the pid namespace, waits ─┬─ launcher ─ jailer ─ Firecracker
 *                                                                                    └─ its end is all others'
 *
 * The jailer sets up root directory, devices and user. The change of user clears Firecracker's parent-death signal, so
 * the shell above it, which stays root and only waits, takes the pid namespace down with it.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { access, realpath, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Config } from '../../../base/config.ts';
import { type Home, requireRunDir } from '../../../base/home.ts';
import type { Log } from '../../../base/log.ts';
import { type DiskLimits, hasDiskLimits } from '../../../base/request/disk-limits.ts';
import type { Cgroup, Cgroups } from '../../../machine/jail/cgroup.ts';
import { ioLimits } from '../../../machine/jail/disk-io.ts';
import { JailError } from '../../../machine/jail/errors.ts';
import { fileLimitBytes, limitsOf } from '../../../machine/jail/jail.ts';
import { isRootWith, type JailGap, limitGaps, NEEDED_CAPABILITIES, openCgroups } from '../../../machine/jail/open.ts';
import { requirePrivateDir } from '../../../machine/jail/private-dir.ts';
import { LAUNCHER_ENDS } from '../../../machine/jail/seccomp/filtered-exec.ts';
import { type TakenUid, UserIds } from '../../../machine/jail/user-ids.ts';
import type { VmSpec } from '../../../machine/vmm/driver.ts';
import {
  findBinary,
  readFirecrackerVersion,
  readJailerVersion,
} from '../../../machine/vmm/firecracker/installation.ts';
import type { JailSpec } from '../../../machine/vmm/firecracker/jail/jailer.ts';
import { makeJailPlace } from '../../../machine/vmm/firecracker/jail/place.ts';
import { reclaimJails } from '../../../machine/vmm/firecracker/jail/reclaim.ts';
import type { UserJailSpec } from '../../../machine/vmm/firecracker/jail/user-place.ts';
import { spawnVmm } from '../../../machine/vmm/firecracker/process/spawn.ts';
import type { VmmMemory } from '../../probes/vmm-memory.ts';
import { modeOf, STATE_DIR, uidRange } from '../jail.ts';
import { writeLauncher } from './filters.ts';

export type FirecrackerConfig = Pick<Config, 'jail' | 'jailUids' | 'firecracker' | 'jailer' | 'firecrackerFilter'> &
  Partial<Pick<Config, 'memorySharing'>>;

export interface FirecrackerOptions {
  readonly config: FirecrackerConfig;
  readonly home: Pick<Home, 'cacheDir' | 'runDir'>;
  readonly log: Log;
  /** Omitted if memory of VMMs is not watched. */
  readonly memory?: Pick<VmmMemory, 'lastLook'>;
  /** For diagnosis: accepts a jail with gaps, even with `enforce`. */
  readonly acceptsGaps?: boolean;
}

export interface FirecrackerJail {
  /** Enforced protections, each a noun phrase. */
  readonly holds: readonly string[];
  readonly gaps: readonly JailGap[];
  /** The jail of a VM that is about to start. @throws JailError */
  readonly specOf: (spec: VmSpec) => Promise<JailSpec | UserJailSpec>;
  /** Call after all VMs have ended. */
  close(): Promise<void>;
}

/** The jailer's additional capabilities: chroot, device nodes. */
const JAILER_CAPABILITIES = { SYS_CHROOT: 18, MKNOD: 27 };
/** Number of filters on each thread, before Firecracker's own. */
const LAUNCHER_FILTERS = 1;
const PROBE = { memoryMib: 64, cpus: 1 };
const WORDS_MAX = 1_000;

/**
 * Kills and removes what a killed NeuroVisor process left behind, and tries a jail.
 * @throws JailError `jail_unavailable`, `jail_dir_unsafe`; VmmError `vmm_missing`, `vmm_start_failed`; RuntimeError
 * `jail_unavailable`
 */
export async function openFirecrackerJail(options: FirecrackerOptions): Promise<FirecrackerJail> {
  const { config, home, log } = options;
  if (!isRootWith({ ...NEEDED_CAPABILITIES, ...JAILER_CAPABILITIES })) {
    throw new JailError('jail_unavailable', 'cannot start Firecracker in its jail', {
      cause: 'as root, the jailer needs all capabilities',
      remedy: 'run NeuroVisor as an ordinary user or with all capabilities, or choose QEMU (--vmm qemu)',
    });
  }
  const binary = await findBinary(config.firecracker);
  const jailer = await findJailer(options, binary);
  requireRunDir(home.runDir);
  const baseDir = join(await realpath(home.runDir), 'jail');
  requirePrivateDir(baseDir);
  await reclaimJails(baseDir, log);
  const cgroups = await openCgroups(log);
  const limited = cgroups?.controllers.length === 0 ? null : cgroups;
  const ids = new UserIds(join(STATE_DIR, 'jail'), uidRange(config.jailUids));
  const launcher = await writeLauncher(home, modeOf(config));
  const { memory } = options;
  const parts: Parts = { jailer, launcher, baseDir, ids, cgroups: limited, memory };
  await probe(parts, binary);
  return {
    holds: [
      'own user',
      'own namespaces',
      'own root',
      'no capabilities',
      ...(limited === null ? [] : [limited.description]),
    ],
    gaps: limitGaps(cgroups),
    specOf: async (spec) => {
      const { id, memoryMib, cpus, overlayPath, rootImagePath, nic, diskLimits = {} } = spec;
      const further = spec.disks ?? [];
      const paths = [rootImagePath, overlayPath, ...further.map(({ path }) => path)];
      const disks = { paths, limits: diskLimits };
      const written = further.filter(({ access }) => access === 'write').map(({ path }) => path);
      const sizes = await Promise.all([overlayPath, ...written].map((path) => stat(path)));
      const diskBytes = Math.max(...sizes.map(({ size }) => size));
      // A TAP that is not lent stays in our network namespace, so Firecracker must stay there, too.
      const ownNet = nic?.tapName === undefined;
      return jailSpec(parts, { id, memoryMib, cpus, diskBytes, disks, ownNet });
    },
    close: () => Promise.resolve(),
  };
}

interface Parts {
  readonly jailer: string;
  readonly launcher: string;
  readonly baseDir: string;
  readonly ids: UserIds;
  readonly cgroups: Cgroups | null;
  readonly memory: FirecrackerOptions['memory'];
}

interface Jailed {
  readonly id: string;
  readonly memoryMib: number;
  readonly cpus: number;
  readonly diskBytes: number;
  readonly disks: { readonly paths: readonly string[]; readonly limits: DiskLimits };
  readonly ownNet: boolean;
}

/** Takes a user id and a control group; `release` frees them. */
function jailSpec(parts: Parts, vm: Jailed): JailSpec {
  const { jailer, launcher, baseDir, ids, cgroups, memory } = parts;
  const { uid, lockFd } = ids.take();
  let cgroup: Cgroup | undefined;
  try {
    const { paths, limits } = vm.disks;
    const io = hasDiskLimits(limits) ? { io: ioLimits(paths, limits) } : {};
    cgroup = cgroups?.create(vm.id, { ...limitsOf(vm), ...io });
  } catch (error) {
    closeSync(lockFd);
    throw error;
  }
  let released: Promise<void> | undefined;
  return {
    jailer,
    baseDir,
    uid,
    gid: uid,
    wrapper: [...wrapperOf(vm, cgroup?.dirs ?? []), launcher],
    filters: LAUNCHER_FILTERS,
    limitDisks: (limits) => cgroup?.limitIo(ioLimits(vm.disks.paths, limits)),
    release: () => {
      memory?.lastLook(cgroup?.dirs ?? []);
      released ??= release(cgroup, lockFd);
      return released;
    },
  };
}

async function release(cgroup: Cgroup | undefined, lockFd: TakenUid['lockFd']): Promise<void> {
  try {
    await cgroup?.remove();
  } finally {
    closeSync(lockFd);
  }
}

/** Enters each given control group, then executes the rest. */
const ENTER = 'until [ "$1" = -- ]; do echo 0 >"$1" || exit 1; shift; done; shift; exec "$@"';
/** The second command keeps the shell from replacing itself with the first. */
const WAIT = '"$@"; exit $?';

function wrapperOf(vm: Jailed, groups: readonly string[]): string[] {
  const fileBytes = fileLimitBytes(vm.memoryMib, vm.diskBytes);
  const { tasks } = limitsOf(vm);
  const enter = ['sh', '-c', ENTER, 'sh', ...groups.map((dir) => join(dir, 'cgroup.procs'))];
  const namespaces = ['--ipc', '--uts', '--cgroup', ...(vm.ownNet ? ['--net'] : [])];
  return [
    'prlimit',
    // A core dump would contain the guest's memory.
    '--core=0:0',
    '--memlock=0:0',
    '--msgqueue=0:0',
    `--nproc=${tasks}:${tasks}`,
    `--fsize=${fileBytes}:${fileBytes}`,
    '--',
    ...enter,
    '--',
    'unshare',
    ...namespaces,
    '--pid',
    '--fork',
    '--kill-child',
    '--',
    'sh',
    '-c',
    WAIT,
    'sh',
  ];
}

/** @throws VmmError `vmm_missing`; JailError `jail_unavailable` if jailer and Firecracker have different versions */
async function findJailer({ config }: FirecrackerOptions, binary: string): Promise<string> {
  const beside = join(dirname(binary), 'jailer');
  const isBeside = await access(beside, constants.X_OK).then(
    () => true,
    () => false,
  );
  const jailer = await findBinary(config.jailer ?? (isBeside ? beside : 'jailer'));
  const [ours, its] = await Promise.all([readFirecrackerVersion(binary), readJailerVersion(jailer)]);
  if (ours.text === its.text) return jailer;
  throw new JailError('jail_unavailable', `cannot use the jailer ${jailer}`, {
    cause: `its version is ${its.text}, Firecracker's is ${ours.text}`,
    remedy: 'install both from one release, or set NEUROVISOR_JAILER',
  });
}

/** Runs `firecracker --version` in a jail like a VM's. @throws JailError `jail_unavailable` */
async function probe(parts: Parts, binary: string): Promise<void> {
  const id = `probe${process.pid}`;
  const disks = { paths: [], limits: {} };
  const jail = jailSpec(parts, { id, ...PROBE, diskBytes: 0, disks, ownNet: true });
  try {
    const channelPath = join(parts.baseDir, id);
    const place = await makeJailPlace({ id, channelPath, overlayPath: '' }, binary, jail);
    try {
      const { status, words } = await run(place.argv(['--version']));
      if (status !== 0) throw unfit(words.trim() || endText(status));
      closeSync(openSync(place.path('dev/kvm'), constants.O_RDWR));
    } finally {
      await place.release();
    }
  } catch (error) {
    throw error instanceof JailError ? error : unfit(error);
  } finally {
    await jail.release?.();
  }
}

async function run(argv: readonly string[]): Promise<{ status: number | null; words: string }> {
  const child = spawnVmm(argv, ['ignore', 'ignore', 'pipe']);
  let words = '';
  child.stderr?.on('data', (bytes: Buffer) => {
    words = (words + bytes.toString('utf8')).slice(0, WORDS_MAX);
  });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return { status, words };
}

/** The launcher prints nothing. */
function endText(status: number | null): string {
  if (status === LAUNCHER_ENDS.privileges) return 'the kernel does not support PR_SET_NO_NEW_PRIVS';
  if (status === LAUNCHER_ENDS.filter) return 'the kernel does not support seccomp filters';
  if (status === LAUNCHER_ENDS.program) return 'the jailer cannot be executed';
  return `exit status ${status}`;
}

function unfit(cause: unknown): JailError {
  return new JailError('jail_unavailable', 'cannot start Firecracker in its jail', {
    cause,
    remedy:
      'put the home (NEUROVISOR_HOME) into directories owned by root, on a filesystem mounted without nodev and noexec',
  });
}
