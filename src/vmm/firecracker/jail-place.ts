/**
 * A place in a jail that the jailer makes:
 *
 *     <base>/firecracker/<id>/            ours
 *                             owner       who made it, for `reclaimJails`
 *                             root/       the process' root, which is its own: it may do there what it likes
 *                                  v      the channel
 *                                  fc/    files of the host as hard links
 *
 * A VMM that a guest has taken over can put links in the place of `fc` or `v`. So the host never follows a name in
 * there: it holds both directories open from before the start and goes by these (`/proc/self/fd/N/…`), and it
 * takes the channel's socket out by a hard link, which follows nothing.
 */
import { closeSync, constants, openSync } from 'node:fs';
import {
  chmod,
  lchown,
  link,
  lstat,
  mkdir,
  readdir,
  rm,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { startTicksOf } from '../../sys/process-start.ts';
import { copyDataInto, copySparse } from '../../sys/sparse.ts';
import type { VmSpec } from '../driver.ts';
import { VmmError } from '../errors.ts';
import { cgroupsOf, removeCgroups } from './cgroups.ts';
import { checkChrootBase } from './chroot-base.ts';
import { FILES, FOLDER } from './config.ts';
import { type JailSpec, jailerArgs, jailFolder } from './jailer.ts';
import { channelNameOf, type Place, removeStaleSocket } from './place.ts';

/** Who made a jail, by pid and start time, and what is to be removed besides it. */
export interface JailOwner {
  readonly pid: number;
  readonly startTicks: string;
  readonly cgroups: readonly string[];
}

export const OWNER_FILE = 'owner';
export const ROOT = 'root';

/** What a jail is made of; of a VM. */
export type JailedSpec = Pick<VmSpec, 'id' | 'channelPath' | 'overlayPath'>;

/**
 * @param binary absolute, without symbolic links
 * @throws VmmError `vmm_start_failed`: the base is not safe or the jail is there already; `vm_spec_invalid`
 */
export async function makeJailPlace(
  spec: JailedSpec,
  binary: string,
  jail: JailSpec,
): Promise<Place> {
  // Before anything is made from the names.
  jailerArgs(jail, spec.id, binary, []);
  channelNameOf(spec);
  await checkChrootBase(jail.baseDir);
  const folder = join(jail.baseDir, jailFolder(binary, spec.id));
  await mkdir(dirname(folder), { mode: 0o700 }).catch(unlessThere);
  await checkChrootBase(dirname(folder));
  await mkdir(folder, { mode: 0o700 }).catch((error: unknown) => {
    throw new VmmError('vmm_start_failed', `the jail ${spec.id} can't be made`, { cause: error });
  });
  const place = new JailPlace(spec, binary, jail, folder);
  try {
    await place.prepare();
  } catch (error) {
    await place.release();
    throw error;
  }
  return place;
}

/**
 * One that is there already, whose owner was killed.
 * @returns the place, and what makes it ours
 * @throws VmmError as above
 */
export async function openJailPlace(
  spec: VmSpec,
  binary: string,
  jail: JailSpec,
): Promise<{ place: Place; root: string; takeOver(): Promise<void> }> {
  jailerArgs(jail, spec.id, binary, []);
  channelNameOf(spec);
  const folder = join(jail.baseDir, jailFolder(binary, spec.id));
  await checkChrootBase(folder);
  const place = new JailPlace(spec, binary, jail, folder);
  return { place, root: join(folder, ROOT), takeOver: () => place.takeOver() };
}

class JailPlace implements Place {
  readonly channelName: string;
  readonly #spec: JailedSpec;
  readonly #binary: string;
  readonly #jail: JailSpec;
  readonly #folder: string;
  /** Open directories: the root of the jail, and `fc` in it. */
  #rootFd = -1;
  #folderFd = -1;
  #cgroups: readonly string[] = [];
  /** Files of the host that are the jail's for a while, by name. */
  readonly #lent = new Map<string, string>();

  constructor(spec: JailedSpec, binary: string, jail: JailSpec, folder: string) {
    this.#spec = spec;
    this.#binary = binary;
    this.#jail = jail;
    this.#folder = folder;
    this.channelName = channelNameOf(spec);
  }

  async prepare(): Promise<void> {
    const { uid, gid } = this.#jail;
    const root = join(this.#folder, ROOT);
    await this.#sign();
    for (const dir of [root, join(root, FOLDER)]) {
      await mkdir(dir, { mode: 0o700 });
      await lchown(dir, uid, gid);
    }
    this.#openDirectories();
    await removeStaleSocket(this.#spec.channelPath);
    await this.#linkListeners();
  }

  /** Its process may have changed what is in there, so each name is opened without following it. */
  async takeOver(): Promise<void> {
    await this.#sign();
    this.#openDirectories();
    this.#lent.set(FILES.overlay, this.#spec.overlayPath);
    await removeStaleSocket(this.#spec.channelPath);
    await this.#linkListeners();
    await this.connectChannel();
  }

  #openDirectories(): void {
    this.#rootFd = openDirectory(join(this.#folder, ROOT));
    this.#folderFd = openDirectory(`/proc/self/fd/${this.#rootFd}/${FOLDER}`);
  }

  /** Says whose it is. */
  async #sign(): Promise<void> {
    this.#cgroups = await cgroupsOf(this.#jail, this.#spec.id, this.#binary);
    const owner: JailOwner = {
      pid: process.pid,
      startTicks: startTicksOf(process.pid) ?? '',
      cgroups: this.#cgroups,
    };
    await writeFile(join(this.#folder, OWNER_FILE), JSON.stringify(owner), { mode: 0o600 });
  }

  path(name: string): string {
    const [folder, file] = name.split('/');
    if (folder === FOLDER && file !== undefined) return `/proc/self/fd/${this.#folderFd}/${file}`;
    return `/proc/self/fd/${this.#rootFd}/${name}`;
  }

  argv(args: readonly string[]): string[] {
    return jailerArgs(this.#jail, this.#spec.id, this.#binary, args);
  }

  async provide(name: string, hostPath: string, use: 'read' | 'write'): Promise<void> {
    const { uid, gid } = this.#jail;
    const path = this.path(name);
    await rm(path, { force: true });
    if (use === 'read' && !(await this.#mayRead(hostPath))) {
      await copySparse(hostPath, path);
      await lchown(path, uid, gid);
      return;
    }
    await link(hostPath, path).catch(async (error: unknown) => {
      if (use === 'write' || errorCode(error) !== 'EXDEV') throw elsewhere(hostPath, error);
      await copySparse(hostPath, path);
      await lchown(path, uid, gid);
    });
    if (use === 'read') return;
    this.#lent.set(name, hostPath);
    await lchown(hostPath, uid, gid);
  }

  async withdraw(name: string): Promise<void> {
    await rm(this.path(name), { force: true });
    await this.#takeBack(name);
  }

  async give(name: string): Promise<void> {
    await lchown(this.path(name), this.#jail.uid, this.#jail.gid);
  }

  /** A jail has no way to memory without a name, so it gets a copy. */
  async lendMemory(fd: number): Promise<void> {
    await rm(this.path(FILES.memory), { force: true });
    await copySparse(`/proc/self/fd/${fd}`, this.path(FILES.memory));
    await this.give(FILES.memory);
  }

  async returnMemory(fd: number): Promise<void> {
    await copyDataInto(this.path(FILES.memory), `/proc/self/fd/${fd}`);
    await rm(this.path(FILES.memory), { force: true });
  }

  disconnectChannel(): Promise<void> {
    return rm(this.#spec.channelPath, { force: true });
  }

  async connectChannel(): Promise<void> {
    const { channelPath } = this.#spec;
    await link(this.path(this.channelName), channelPath);
    if (!(await lstat(channelPath)).isSocket()) {
      await unlink(channelPath);
      throw new VmmError('vmm_start_failed', "the VM's channel is not a socket");
    }
    // The jail's user could connect to itself only.
    await lchown(channelPath, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
    await chmod(channelPath, 0o600);
  }

  async release(): Promise<void> {
    for (const fd of [this.#rootFd, this.#folderFd]) if (fd >= 0) closeSync(fd);
    this.#rootFd = -1;
    this.#folderFd = -1;
    for (const name of [...this.#lent.keys()]) await this.#takeBack(name);
    try {
      await removeCgroups(this.#cgroups);
    } finally {
      await rm(this.#folder, { recursive: true, force: true });
      await removeStaleSocket(this.#spec.channelPath);
    }
  }

  /** Who listens for the guest does so already; its sockets are the jail's to connect to. */
  async #linkListeners(): Promise<void> {
    const { channelPath } = this.#spec;
    const prefix = `${this.channelName}_`;
    for (const name of await readdir(dirname(channelPath))) {
      const port = name.startsWith(prefix) ? name.slice(prefix.length) : '';
      const listener = join(dirname(channelPath), name);
      if (!/^\d{1,10}$/.test(port) || !(await lstat(listener)).isSocket()) continue;
      await rm(this.path(name), { force: true });
      await link(listener, this.path(name)).catch((error: unknown) => {
        throw elsewhere(listener, error);
      });
      await lchown(listener, this.#jail.uid, this.#jail.gid);
    }
  }

  /** Files are read by the rights for others, so that one can be in many jails. */
  async #mayRead(path: string): Promise<boolean> {
    const found = await lstat(path);
    return found.isFile() && found.uid !== this.#jail.uid && (found.mode & 0o006) === 0o004;
  }

  async #takeBack(name: string): Promise<void> {
    const hostPath = this.#lent.get(name);
    if (hostPath === undefined) return;
    this.#lent.delete(name);
    await lchown(hostPath, process.geteuid?.() ?? 0, process.getegid?.() ?? 0).catch(unlessGone);
  }
}

function openDirectory(path: string): number {
  return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
}

function unlessThere(error: unknown): void {
  if (errorCode(error) !== 'EEXIST') throw error;
}

function unlessGone(error: unknown): void {
  if (errorCode(error) !== 'ENOENT') throw error;
}

function elsewhere(path: string, cause: unknown): VmmError {
  return new VmmError('vmm_start_failed', `${path} can't be put into a jail`, {
    cause,
    ...(errorCode(cause) === 'EXDEV' ? { remedy: 'make jails on the filesystem of the home' } : {}),
  });
}
