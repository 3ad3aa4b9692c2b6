/**
 * Finds and installs missing packages of the host. Checks test the function: a program must start, a file must exist.
 * So an installed but broken package counts as missing, and a program from another source as present.
 */
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { ImageError } from './errors.ts';
import { findKernelSource } from './kernel/source.ts';
import type { HostPackage, PackageCheck } from './package-table.ts';
import type { PrepareContext } from './prepare.ts';
import { runTool, toolEnvironment, UnreachableError, whileUnreachable } from './tool.ts';

export {
  BUILDER_PACKAGES,
  COMPILER_PACKAGES,
  ENVIRONMENT_PACKAGES,
  type HostPackage,
  KERNEL_PACKAGES,
  RUN_PACKAGES,
  TEST_PACKAGES,
} from './package-table.ts';

const STEP = 'host-packages';
const APT_LOCK_WAIT_S = 300;
/** Progress of an installation after the lists are refreshed, and after the download. */
const UPDATE_FRACTION = 0.15;
const DOWNLOAD_FRACTION = 0.55;

/**
 * The missing packages, by the names that this host's apt knows.
 * @param table `RUN_PACKAGES` (30 ms) if nothing has to be built, otherwise `neededPackages` (`prepared.ts`; 500 ms)
 */
export async function missingHostPackages(table: readonly HostPackage[]): Promise<readonly HostPackage[]> {
  const others = process.geteuid?.() === 0 ? 'ordinary-user' : 'root';
  const needed = table.filter((one) => one.onlyFor !== others);
  const present = await Promise.all(needed.map((one) => passes(one.check)));
  const missing = needed.filter((_, index) => !present[index]);
  return await Promise.all(missing.map(withKnownName));
}

/**
 * Installs packages with apt, without prompts.
 * @throws ImageError `host_packages_missing` if this user is not root (the remedy is the command to run),
 * `install_failed` if apt fails or a package is still missing afterwards
 */
export async function installHostPackages(
  context: Pick<PrepareContext, 'progress' | 'signal' | 'log'>,
  packages: readonly HostPackage[],
): Promise<void> {
  if (packages.length === 0) return;
  if (process.geteuid?.() !== 0) throw needsRoot(packages);
  const { progress } = context;
  const startedAtMs = systemClock.now();
  const names = packages.map((one) => one.name).join(', ');
  const title = `Install host packages (${names})`;
  progress({ kind: 'start', step: STEP, title });
  try {
    await aptInstall(context, packages);
    const still = (await missingHostPackages(packages)).filter(isRequired);
    if (still.length > 0) throw installFailed(still, new Error('the packages are still missing'));
  } catch (error) {
    if (!packages.some(isRequired) && !context.signal.aborted) {
      context.log.warn(`without ${names}`, { reason: describeError(error) });
      progress({ kind: 'done', step: STEP, cached: false, durationMs: 0 });
      return;
    }
    progress({ kind: 'failed', step: STEP, message: describeError(error) });
    throw error;
  }
  const durationMs = systemClock.now() - startedAtMs;
  progress({ kind: 'done', step: STEP, cached: false, durationMs });
}

async function aptInstall(
  context: Pick<PrepareContext, 'progress' | 'signal'>,
  packages: readonly HostPackage[],
): Promise<void> {
  const { progress, signal } = context;
  const report = (detail: string, fraction?: number): void =>
    progress({ kind: 'update', step: STEP, detail, ...(fraction === undefined ? {} : { fraction }) });
  // A killed dpkg leaves packages half installed, so a started installation finishes first.
  const stop = new AbortController();
  let isInstalling = false;
  const onAbort = (): void => {
    if (isInstalling) report('canceled: apt ends its installation first');
    else stop.abort(signal.reason);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  const apt = (args: readonly string[], onStatusLine?: (line: string) => void): Promise<string> =>
    runTool('apt-get', ['-y', '-o', `DPkg::Lock::Timeout=${APT_LOCK_WAIT_S}`, ...args], {
      signal: stop.signal,
      env: { DEBIAN_FRONTEND: 'noninteractive' },
      missingRemedy: `This host has no apt. Install ${packages.map((one) => one.name).join(', ')} with its package manager.`,
      onLine: (line) => {
        const holder = parseLockHolder(line);
        if (holder !== undefined) report(`wait for ${holder}, which has apt's lock`);
      },
      ...(onStatusLine === undefined ? {} : { onStatusLine }),
    });
  const patiently = <T>(step: () => Promise<T>): Promise<T> =>
    whileUnreachable(step, stop.signal, (waitMs) =>
      report(`the package server can't be reached; another try in ${waitMs / 1000} s`),
    );
  try {
    let known = packages;
    const unknown = await Promise.all(packages.map(async (one) => !(await aptKnows(one.name))));
    if (unknown.includes(true)) {
      report('refresh the package lists');
      await patiently(() => refreshPackageLists(apt));
      known = await Promise.all(packages.map(withKnownName));
    }
    const offered = await Promise.all(known.map((one) => isRequired(one) || aptKnows(one.name)));
    const names = known.filter((_, index) => offered[index]).map((one) => one.name);
    if (names.length === 0) return;
    const install = ['-o', 'APT::Status-Fd=3', 'install', '--no-install-recommends', ...names];
    await patiently(() =>
      apt(install, (line) => {
        isInstalling ||= line.startsWith('pmstatus:');
        const status = parseAptStatus(line);
        if (status !== undefined && !signal.aborted) report(status.detail, status.fraction);
      }),
    );
  } catch (error) {
    if (signal.aborted) throw error;
    throw installFailed(packages, error);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
  if (signal.aborted) {
    throw new ImageError('cancelled', 'install host packages: canceled', { cause: signal.reason });
  }
}

/**
 * Refreshes the package lists; apt only warns of a list that it can't fetch, unless `Error-Mode` forbids it.
 * @throws UnreachableError, ImageError
 */
export async function refreshPackageLists(apt: (args: readonly string[]) => Promise<string>): Promise<void> {
  try {
    await apt(['-o', 'APT::Update::Error-Mode=any', 'update']);
  } catch (error) {
    if (error instanceof UnreachableError || (error instanceof ImageError && error.code === 'cancelled')) throw error;
    // An optional list that fails must not stop the rest.
    await apt(['update']);
  }
}

/** Holder of the lock that apt waits for, e.g. `process 812 (unattended-upgr)`; undefined if apt does not wait. */
export function parseLockHolder(line: string): string | undefined {
  return /Could not get lock .* held by (process \d+ \([^)]*\))/.exec(line)?.[1];
}

/** Parses one line of apt's status protocol (`dlstatus:1:20.5:Retrieving …`, `pmstatus:gcc:40.0:…`). */
export function parseAptStatus(line: string): { fraction: number; detail: string } | undefined {
  const match = /^(dlstatus|pmstatus):[^:]*:([\d.]+):(.*)$/.exec(line);
  if (match === null) return undefined;
  const share = Math.min(Number(match[2]) / 100, 1);
  const fraction =
    match[1] === 'dlstatus'
      ? UPDATE_FRACTION + (DOWNLOAD_FRACTION - UPDATE_FRACTION) * share
      : DOWNLOAD_FRACTION + (1 - DOWNLOAD_FRACTION) * share;
  return Number.isFinite(fraction) ? { fraction, detail: match[3] ?? '' } : undefined;
}

async function passes(check: PackageCheck): Promise<boolean> {
  switch (check.kind) {
    case 'file':
      return isAccessible(check.path, constants.R_OK);
    case 'program':
      return isProgram(check.program);
    case 'kernel-source':
      return (await findKernelSource()) !== undefined;
    case 'runs':
      try {
        await runTool(check.program, check.args);
        return true;
      } catch (error) {
        ignore(error, 'a program that does not start: its package counts as missing');
        return false;
      }
  }
}

async function isProgram(name: string): Promise<boolean> {
  const directories = (toolEnvironment()['PATH'] ?? '').split(':');
  const found = await Promise.all(directories.map((directory) => isAccessible(join(directory, name), constants.X_OK)));
  return found.includes(true);
}

async function isAccessible(path: string, mode: number): Promise<boolean> {
  try {
    await access(path, mode);
    return true;
  } catch (error) {
    ignore(error, 'a file of a missing package');
    return false;
  }
}

/** Chooses the first name that apt can install, or the preferred one if apt knows none. */
async function withKnownName(one: HostPackage): Promise<HostPackage> {
  for (const name of [one.name, ...(one.alternatives ?? [])]) {
    if (await aptKnows(name)) return { ...one, name };
  }
  return one;
}

async function aptKnows(name: string): Promise<boolean> {
  try {
    let isCandidate = false;
    // By lines, since `runTool` returns only the last ones, and a package with many versions has more.
    await runTool('apt-cache', ['policy', name], {
      onLine: (line) => {
        isCandidate ||= /^ {2}Candidate: (?!\(none\))/.test(line);
      },
    });
    return isCandidate;
  } catch (error) {
    ignore(error, 'no apt on this host');
    return false;
  }
}

const isRequired = (one: HostPackage): boolean => one.isOptional !== true;

export const installCommand = (packages: readonly HostPackage[]): string =>
  `sudo apt-get install -y --no-install-recommends ${packages.map((one) => one.name).join(' ')}`;

function needsRoot(packages: readonly HostPackage[]): ImageError {
  const list = packages.map((one) => `${one.name} (${one.reason})`).join(', ');
  return new ImageError('host_packages_missing', `missing host packages: ${list}`, {
    remedy: `Run: ${installCommand(packages)}`,
  });
}

function installFailed(packages: readonly HostPackage[], cause: unknown): ImageError {
  const names = packages.map((one) => one.name).join(' ');
  return new ImageError('install_failed', `install host packages ${names}`, {
    cause,
    remedy: `For details run: apt-get update && apt-get install --no-install-recommends ${names}`,
  });
}
