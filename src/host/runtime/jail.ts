/** The configured jail around VMMs, or the reason why there is none. */

import { statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../../base/config.ts';
import { CodedError } from '../../base/errors.ts';
import type { Home } from '../../base/home.ts';
import { tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import { searchPath } from '../../base/search-path.ts';
import type { GroupOwner } from '../../machine/jail/cgroup.ts';
import {
  checkNamespaces,
  isRootWith,
  type Jail,
  type JailGap,
  NEEDED_CAPABILITIES,
  openJail,
} from '../../machine/jail/open.ts';
import { compileProfile } from '../../machine/jail/seccomp/compile.ts';
import {
  type Mode,
  type Profile,
  parseProfile,
  type ThreadFilter,
  withMode,
} from '../../machine/jail/seccomp/profile.ts';
import { sparingFile } from '../../machine/jail/seccomp/spared-file.ts';
import type { JailState } from '../../machine/jail/state.ts';
import { DEFAULT_UIDS, parseUidRange, type UidRange } from '../../machine/jail/user-ids.ts';
import { probeAccelerator } from '../../machine/vmm/accelerator/probe.ts';
import { type Launch, launchDirect } from '../../machine/vmm/launch.ts';
import { listQemuFiles } from '../../machine/vmm/qemu/installation.ts';
import { RuntimeError } from './errors.ts';

export interface Confinement {
  readonly state: JailState;
  /** For humans: `jailed: own user, …` or `not jailed: …`. */
  readonly description: string;
  readonly gaps: readonly JailGap[];
  /** Call after all VMs have ended. */
  close(): Promise<void>;
}

export interface QemuConfinement extends Confinement {
  readonly launch: Launch;
  /** The jail supports `LaunchPlan.sparedFd`. */
  readonly sparesFiles: boolean;
  /** The jail supports `LaunchPlan.outlives`. */
  readonly outlives: boolean;
  /** False: QEMU's own filter stays off, because it would kill on calls that should only be logged. */
  readonly ownFilter: boolean;
}

/** Shared by all NeuroVisor processes of the host. */
export const STATE_DIR = '/run/neurovisor';
export const QEMU_BINARY = 'qemu-system-x86_64';
export const POLICY_DIR = join(PACKAGE_DIR, 'policy');

/** @throws RuntimeError `jail_unavailable` if a jail is required (any mode but `off`) and not available */
export async function confine(options: {
  readonly config: Pick<Config, 'jail' | 'jailUids'> & Partial<Pick<Config, 'accelerator'>>;
  readonly home: Pick<Home, 'cacheDir'>;
  readonly log: Log;
  readonly binary: string;
  /** For diagnosis: accepts a jail with gaps, even with `enforce`. */
  readonly acceptsGaps?: boolean;
  /** See `JailOptions`. */
  readonly keeper?: GroupOwner | undefined;
  /** Whether VMMs get /dev/kvm. Default: if the probe finds that KVM works. */
  readonly withKvm?: boolean;
}): Promise<QemuConfinement> {
  const { config, log, acceptsGaps = false } = options;
  const direct = { launch: launchDirect, sparesFiles: false, outlives: false, ownFilter: true };
  const { jail: mode } = config;
  if (mode === 'off') return { ...unconfined(SWITCHED_OFF), ...direct };
  try {
    const opened = await open(options);
    await closeUnless(opened.jail, () => acceptsGaps || judgeGaps(opened.jail.gaps, mode, log));
    return confinedBy(opened, mode);
  } catch (error) {
    throw unjailable(error);
  }
}

export const SWITCHED_OFF = 'disabled by NEUROVISOR_JAIL';

/** The error in every mode but `off`: no VMM runs without namespaces and seccomp unless the owner allows it. */
export function unjailable(error: unknown): RuntimeError {
  if (error instanceof RuntimeError) return error;
  const remedy = error instanceof CodedError ? error.remedy : undefined;
  const first = remedy?.replace(/\.$/, '') ?? 'Run `./neurovisor doctor --security`';
  return new RuntimeError('jail_unavailable', 'cannot jail VMMs on this host', {
    cause: error,
    remedy: `${first}. To run VMs without a jail: --jail off (NEUROVISOR_JAIL=off).`,
  });
}

/**
 * Checks the host before the set-up, which takes minutes.
 * @throws RuntimeError `jail_unavailable`
 */
export async function checkJail({ jail }: Pick<Config, 'jail'>, vmm: 'firecracker' | 'qemu'): Promise<void> {
  if (jail === 'off') return;
  // Firecracker's own jailer needs no user namespaces.
  if (vmm === 'firecracker' && isRootWith(NEEDED_CAPABILITIES)) return;
  try {
    await checkNamespaces(searchPath(process.env['PATH']));
  } catch (error) {
    throw unjailable(error);
  }
}

/**
 * Logs the gaps of a jail.
 * @throws RuntimeError `jail_unavailable` if the jail is incomplete with `enforce`
 */
export function judgeGaps(gaps: readonly JailGap[], mode: Config['jail'], log: Log, of = 'VMMs'): void {
  if (gaps.length === 0) return;
  if (mode === 'enforce') {
    throw new RuntimeError('jail_unavailable', 'the jail would be incomplete', {
      cause: gaps.map(({ text }) => text).join('; '),
      remedy: `${remediesOf(gaps)} (docs/security.md, Hosts), or set NEUROVISOR_JAIL=auto`,
    });
  }
  for (const { text: gap, remedy } of gaps) {
    log.warn(`the jail of ${of} is incomplete`, { gap, remedy });
  }
}

/** One clause with the remedies for all gaps. */
export function remediesOf(gaps: readonly JailGap[]): string {
  return [...new Set(gaps.map(({ remedy }) => remedy))].join('; ');
}

function confinedBy(
  { jail, program }: { jail: Jail; program: string },
  mode: 'auto' | 'enforce' | 'log',
): QemuConfinement {
  return {
    ...confinement(jail, mode, jail.description),
    async launch({ argv: [, ...args], sparedFd, ...plan }) {
      const spared = sparedFd === undefined ? {} : { filter: await qemuFilter(modeOf({ jail: mode }), sparedFd) };
      return await jail.start({ ...plan, ...spared, argv: [program, ...args] });
    },
    sparesFiles: true,
    outlives: jail.outlives,
    ownFilter: mode !== 'log',
  };
}

/** @param holds the enforced protections, for humans */
export function confinement(
  jail: Pick<Jail, 'gaps' | 'close'>,
  mode: Exclude<Config['jail'], 'off'>,
  holds: string,
): Confinement {
  const logs = mode === 'log' ? ', but refused system calls are only logged' : '';
  return {
    state: mode === 'log' ? 'log' : 'enforced',
    description: `jailed: ${holds}${logs}`,
    gaps: jail.gaps,
    close: () => jail.close(),
  };
}

/** @param reason one clause of text */
export function unconfined(reason: string): Confinement {
  return {
    state: 'off',
    description: `not jailed: ${reason}`,
    gaps: [{ text: `VMMs are not jailed: ${reason}`, remedy: 'unset NEUROVISOR_JAIL' }],
    close: () => Promise.resolve(),
  };
}

/** Returns the jail, and the program's path in it. */
async function open(options: Parameters<typeof confine>[0]): Promise<{ jail: Jail; program: string }> {
  const { config, home, log, binary } = options;
  const path = searchPath(process.env['PATH']);
  const [programFiles, filter] = await Promise.all([listQemuFiles(binary, path), qemuFilter(modeOf(config))]);
  if (process.geteuid?.() === 0 && kvmAccess() === 'root' && (await usesKvm(options))) {
    throw new RuntimeError('jail_unavailable', 'give VMMs access to /dev/kvm', {
      cause: 'only root may open it',
      remedy: 'run chgrp kvm /dev/kvm && chmod 660 /dev/kvm, and add a udev rule for it',
    });
  }
  const kvm = kvmAccess();
  const jail = await openConfiguredJail(config, {
    cacheDir: home.cacheDir,
    programFiles,
    filter,
    log,
    probeArgs: ['--version'],
    deviceGid: typeof kvm === 'number' ? kvm : null,
    keeper: options.keeper,
  });
  return { jail, program: programFiles[0] ?? binary };
}

type JailOptions = Parameters<typeof openJail>[0];

/** A jail of this host with the user ids of the settings. @throws JailError; RuntimeError `jail_unavailable` */
export function openConfiguredJail(
  { jailUids }: Pick<Config, 'jailUids'>,
  options: Omit<JailOptions, 'stateDir' | 'searchPath' | 'uids'>,
): Promise<Jail> {
  const path = searchPath(process.env['PATH']);
  return openJail({ ...options, stateDir: STATE_DIR, searchPath: path, uids: uidRange(jailUids) });
}

/** Closes the jail if `check` fails. */
export async function closeUnless(jail: Pick<Jail, 'close'>, check: () => unknown): Promise<void> {
  try {
    await check();
  } catch (error) {
    await jail.close();
    throw error;
  }
}

/** @param sparedFd as in `LaunchPlan`. @throws JailError `profile_invalid` */
export async function qemuFilter(mode: Mode, sparedFd?: number): Promise<Uint8Array> {
  const filter = await readFilter('qemu', mode, 'QEMU');
  const whole = sparedFd === undefined ? filter : sparingFile(filter, sparedFd);
  return compileProfile(whole, 'x86_64').program;
}

/** The action of a filter for a refused call. */
export function modeOf({ jail }: Pick<Config, 'jail'>): Mode {
  return jail === 'log' ? 'log' : 'enforce';
}

/** Reads one of the product's own profiles. @throws JailError `profile_invalid` */
export async function readPolicy(name: string, mode: Mode): Promise<Profile> {
  const profile = parseProfile(await readFile(join(POLICY_DIR, name), 'utf8'));
  return new Map([...profile].map(([thread, filter]) => [thread, withMode(filter, mode)]));
}

/** Reads the filter of a profile with one thread. @throws JailError `profile_invalid`; RuntimeError `jail_unavailable` */
export async function readFilter(thread: string, mode: Mode, of: string): Promise<ThreadFilter> {
  const filter = (await readPolicy(`${thread}-x86_64.json`, mode)).get(thread);
  if (filter !== undefined) return filter;
  throw new RuntimeError('jail_unavailable', `the seccomp profile of ${of} is missing`);
}

export function uidRange(text: string | null): UidRange {
  const range = text === null ? DEFAULT_UIDS : parseUidRange(text);
  if (range !== undefined) return range;
  throw new RuntimeError('jail_unavailable', `cannot use the user ids ${text} for VMMs`, {
    remedy: 'set NEUROVISOR_JAIL_UIDS to FIRST:COUNT, above 1000 and without 65534',
  });
}

/** The users who may open /dev/kvm; a number is a group id. */
function kvmAccess(): 'all' | 'root' | 'none' | number {
  return tryOr('none', 'no KVM here', () => {
    const { gid, mode } = statSync('/dev/kvm');
    if ((mode & 0o006) === 0o006) return 'all';
    return (mode & 0o060) === 0o060 && gid !== 0 ? gid : 'root';
  });
}

/** Called only where it matters: the probe may take a second. */
async function usesKvm({ config, home, withKvm }: Parameters<typeof confine>[0]): Promise<boolean> {
  if (withKvm !== undefined) return withKvm;
  if (config.accelerator === 'tcg') return false;
  return (await probeAccelerator({ cacheDir: home.cacheDir })).accelerator === 'kvm';
}
