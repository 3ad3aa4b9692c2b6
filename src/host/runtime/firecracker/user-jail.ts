/**
 * The jail around an ordinary user's Firecracker, for whom its jailer can't work: bubblewrap makes the same walls as
 * for QEMU. Each VM has namespaces and a root of its own, our filter over Firecracker's, and limits if this user's
 * control group is delegated; it keeps this user's id.
 */
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { ignore } from '../../../base/ignore.ts';
import { JailError } from '../../../machine/jail/errors.ts';
import type { Jailed } from '../../../machine/jail/jail.ts';
import { type Jail, namespaceRemedy, readSetting } from '../../../machine/jail/open.ts';
import type { JailFile } from '../../../machine/jail/plan.ts';
import { requirePrivateDir } from '../../../machine/jail/private-dir.ts';
import type { VmSpec } from '../../../machine/vmm/driver.ts';
import { findBinary } from '../../../machine/vmm/firecracker/installation.ts';
import { DESCRIPTORS_MAX } from '../../../machine/vmm/firecracker/jail/jailer.ts';
import type { UserJailSpec } from '../../../machine/vmm/firecracker/jail/user-place.ts';
import { findKvmObstacle, KVM_DEVICE } from '../../../machine/vmm/kvm-device.ts';
import { memoryGroup } from '../../probes/vmm-memory.ts';
import { closeUnless, modeOf, openConfiguredJail } from '../jail.ts';
import { launchFilter } from './filters.ts';
import type { FirecrackerJail, FirecrackerOptions } from './jail.ts';

/** Path of Firecracker in the jail, the same as in its jailer's. */
const PROGRAM = '/firecracker';
/** Number of filters on each thread, before Firecracker's own. */
const OUR_FILTERS = 1;
const PROBE = { id: `probe${process.pid}`, memoryMib: 64, cpus: 1 };
const WORDS_MAX = 1_000;

/** Tries a jail. @throws JailError `jail_unavailable`, `jail_dir_unsafe`; VmmError `vmm_missing` */
export async function openFirecrackerUserJail(options: FirecrackerOptions): Promise<FirecrackerJail> {
  const { config, home, log, memory } = options;
  const binary = await findBinary(config.firecracker);
  const jail = await openConfiguredJail(config, {
    cacheDir: home.cacheDir,
    programFiles: [],
    probeArgs: [],
    filter: (await launchFilter(modeOf(config))).program,
    deviceGid: null,
    ownUsers: false,
    log,
  });
  const program: readonly JailFile[] = [
    { path: binary, at: PROGRAM, access: 'read' },
    { path: KVM_DEVICE, access: 'device' },
  ];
  await closeUnless(jail, async () => {
    await checkKvm();
    const dir = join(home.cacheDir, 'jail');
    requirePrivateDir(dir);
    await probe(jail, program, dir);
  });
  return {
    holds: [jail.description],
    gaps: jail.gaps,
    specOf: async (spec) => specOf(jail, program, spec, memory),
    close: () => jail.close(),
  };
}

function specOf(
  jail: Jail,
  program: readonly JailFile[],
  { id, memoryMib, cpus, diskLimits = {} }: VmSpec,
  memory: FirecrackerOptions['memory'],
): UserJailSpec {
  let jailed: Jailed | undefined;
  let group: Promise<string | undefined> | undefined;
  return {
    uid: process.geteuid?.() ?? 0,
    gid: process.getegid?.() ?? 0,
    filters: OUR_FILTERS,
    start({ args, files, ...plan }) {
      const started = jail.startAsUser({
        ...plan,
        id,
        argv: [PROGRAM, ...args],
        files: [...program, ...files],
        memoryMib,
        cpus,
        diskLimits,
        openFilesMax: DESCRIPTORS_MAX,
      });
      jailed = started;
      group = started.pid.then(
        (pid) => memoryGroup(`${pid}`),
        (error: unknown) => {
          ignore(error, 'the start reports it');
          return undefined;
        },
      );
      return { child: started.child, admitted: started.pid };
    },
    limitDisks: (limits) => jailed?.limitDisks(limits),
    async release() {
      const dir = await group;
      if (dir !== undefined) memory?.lastLook([dir]);
      await jailed?.release();
    },
  };
}

async function checkKvm(): Promise<void> {
  const obstacle = await findKvmObstacle();
  if (obstacle === null) return;
  throw new JailError('jail_unavailable', 'cannot start Firecracker in a jail', {
    cause: obstacle.reason,
    remedy: obstacle.remedy,
  });
}

/** Runs `firecracker --version` in a jail like a VM's. @throws JailError `jail_unavailable` */
async function probe(jail: Jail, files: readonly JailFile[], dir: string): Promise<void> {
  const jailed = await jail.start({
    ...PROBE,
    argv: [PROGRAM, '--version'],
    stdio: ['ignore', 'pipe', 'pipe'],
    dir,
    files,
    openFilesMax: DESCRIPTORS_MAX,
  });
  const { child, pid } = jailed;
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  child.stdout?.resume();
  const words = child.stderr === null ? '' : (await text(child.stderr)).slice(0, WORDS_MAX).trim();
  const status = await ended;
  const failure = await pid.then(
    () => `it ended with status ${status}`,
    (error: unknown) => error,
  );
  await jailed.release();
  if (status === 0) return;
  throw new JailError('jail_unavailable', 'cannot start Firecracker in a jail', {
    cause: words === '' ? failure : words,
    remedy: namespaceRemedy(readSetting),
  });
}
