/**
 * The place of a jailed process:
 *
 *     <base>/firecracker/<id>/            ours
 *                             owner       its owner, for `reclaimJails`
 *                             root/       the process's root, which it owns and may change
 *                                  c      its end of the channel (`channel/relay.ts`)
 *                                  fc/    ours: host files as hard links; the process can't change a name here
 *                                     s/  its own, for the API's socket
 *
 * A compromised VMM can replace `fc`, `v` and the contents of `s` with links at any time. So the host opens the
 * directories before the start and uses these descriptors (`/proc/self/fd/N/…`). It never follows the last name in a
 * directory of the VMM: it takes the channel's socket out by a hard link, opens the API's without following it, and
 * checks the result. A file with other users never enters such a directory: the VMM could rename it.
 */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { chmod, type FileHandle, lchown, link, lstat, mkdir, open, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errorCode } from '../../../../base/errors.ts';
import { startTicksOf } from '../../../../sys/process-start.ts';
import { copyDataBetween, createSparseCopy } from '../../../../sys/sparse.ts';
import type { VmSpec } from '../../driver.ts';
import { VmmError } from '../../errors.ts';
import { FILES, FOLDER, SOCKETS } from '../config.ts';
import { channelNameOf, type Place, removeStaleSocket } from '../place.ts';
import { cgroupsOf, removeCgroups } from './cgroups.ts';
import { checkChrootBase } from './chroot-base.ts';
import { type JailSpec, jailerArgs, jailFolder } from './jailer.ts';
import { LentFile } from './lent-file.ts';
import { endProcessesIn } from './orphan.ts';
import { type JailOwner, OWNER_FILE, ROOT } from './owner.ts';
import { notInJail, VmmSockets } from './sockets.ts';

const OTHERS_MAY_SEARCH = 0o711;
const WRITABLE_BY_OTHERS = 0o022;

type JailedSpec = Pick<VmSpec, 'id' | 'channelPath' | 'overlayPath'>;

/**
 * @param binary absolute, without symbolic links
 * @throws VmmError `vmm_start_failed` if the base is unsafe or the jail exists; `vm_spec_invalid`
 */
export async function makeJailPlace(spec: JailedSpec, binary: string, jail: JailSpec): Promise<Place> {
  // Checked before anything is created from the names.
  jailerArgs(jail, spec.id, binary, []);
  channelNameOf(spec);
  await checkChrootBase(jail.baseDir);
  const folder = join(jail.baseDir, jailFolder(binary, spec.id));
  await mkdir(dirname(folder), { mode: 0o700 }).catch(unlessThere);
  await checkChrootBase(dirname(folder));
  await mkdir(folder, { mode: 0o700 }).catch((error: unknown) => {
    throw new VmmError('vmm_start_failed', `the jail ${spec.id} can't be created`, { cause: error });
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
 * Opens an existing jail whose owner was killed.
 * @returns the place, and a function that makes this process its owner
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
  /** The API's socket, once it exists. */
  #apiFd = -1;
  #cgroups: readonly string[] = [];
  /** Lent host files, by name. */
  readonly #lent = new Map<string, LentFile>();
  /** The VM's RAM as a file, once created. */
  #memory: FileHandle | undefined;
  readonly #sockets = new VmmSockets();

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
    for (const dir of [root, join(root, FOLDER), join(root, SOCKETS)]) {
      await mkdir(dir, { mode: 0o700 });
    }
    for (const dir of [root, join(root, SOCKETS)]) await lchown(dir, uid, gid);
    await chmod(join(root, FOLDER), OTHERS_MAY_SEARCH);
    this.#openDirectories();
    await removeStaleSocket(this.#spec.channelPath);
    await this.#linkListeners();
  }

  /** The process may have changed its root, so each name is opened without following it. */
  async takeOver(): Promise<void> {
    await this.#sign();
    const { overlayPath } = this.#spec;
    try {
      this.#lent.set(FILES.overlay, LentFile.takeOver(overlayPath));
    } catch (error) {
      throw notInJail(overlayPath, error);
    }
    this.#openDirectories();
    await removeStaleSocket(this.#spec.channelPath);
    await this.#linkListeners();
    await this.connectChannel();
  }

  #openDirectories(): void {
    this.#rootFd = openDirectory(join(this.#folder, ROOT));
    this.#folderFd = openDirectory(`/proc/self/fd/${this.#rootFd}/${FOLDER}`);
    const { uid, mode } = fstatSync(this.#folderFd);
    if (uid === process.geteuid?.() && (mode & WRITABLE_BY_OTHERS) === 0) return;
    throw new VmmError('vmm_start_failed', `the jail ${this.#spec.id} can't be used`, {
      cause: `the host does not own its ${FOLDER}`,
    });
  }

  async #sign(): Promise<void> {
    this.#cgroups = await cgroupsOf(this.#jail, this.#spec.id, this.#binary);
    const owner: JailOwner = { pid: process.pid, startTicks: startTicksOf(process.pid) ?? '', cgroups: this.#cgroups };
    await writeFile(join(this.#folder, OWNER_FILE), JSON.stringify(owner), { mode: 0o600 });
  }

  path(name: string): string {
    const inFolder = `${FOLDER}/`;
    if (!name.startsWith(inFolder)) return `/proc/self/fd/${this.#rootFd}/${name}`;
    return `/proc/self/fd/${this.#folderFd}/${name.slice(inFolder.length)}`;
  }

  apiPath(): string {
    if (this.#apiFd < 0) this.#apiFd = this.#sockets.openApi(this.path(FILES.api));
    return `/proc/self/fd/${this.#apiFd}`;
  }

  argv(args: readonly string[]): string[] {
    return jailerArgs(this.#jail, this.#spec.id, this.#binary, args);
  }

  async provide(name: string, hostPath: string, use: 'read' | 'write'): Promise<void> {
    const path = this.path(name);
    await this.withdraw(name);
    if (use === 'write') {
      await this.#lend(name, hostPath);
      return;
    }
    const copy = async (): Promise<void> => (await this.#copyIn(hostPath, path)).close();
    if (!(await this.#mayRead(hostPath))) return copy();
    await link(hostPath, path).catch((error: unknown) => {
      if (errorCode(error) !== 'EXDEV') throw notInJail(hostPath, error);
      return copy();
    });
  }

  async #lend(name: string, hostPath: string): Promise<void> {
    const { uid, gid } = this.#jail;
    try {
      const file = LentFile.open(hostPath);
      this.#lent.set(name, file);
      await link(hostPath, this.path(name));
      file.give(uid, gid);
    } catch (error) {
      throw notInJail(hostPath, error);
    }
  }

  /** @returns the copy, owned by the jail's user; the caller closes it */
  async #copyIn(hostPath: string, path: string): Promise<FileHandle> {
    const copy = await createSparseCopy(hostPath, path);
    try {
      await copy.chown(this.#jail.uid, this.#jail.gid);
      return copy;
    } catch (error) {
      await copy.close();
      throw error;
    }
  }

  async withdraw(name: string): Promise<void> {
    await rm(this.path(name), { force: true });
    this.#takeBack(name);
  }

  async give(name: string): Promise<void> {
    await lchown(this.path(name), this.#jail.uid, this.#jail.gid);
  }

  /** A jail can't reach unnamed memory, so it gets a copy. */
  async lendMemory(fd: number): Promise<void> {
    await this.#dropMemory();
    this.#memory = await this.#copyIn(`/proc/self/fd/${fd}`, this.path(FILES.memory));
  }

  async returnMemory(fd: number): Promise<void> {
    if (this.#memory === undefined) throw new Error('no memory was lent');
    await using memory = await open(`/proc/self/fd/${fd}`, 'r+');
    const { size } = await memory.stat();
    if ((await this.#memory.stat()).size !== size) throw new Error('the sizes of the RAM differ');
    await copyDataBetween(this.#memory.fd, memory.fd, size);
    await this.#dropMemory();
  }

  async #dropMemory(): Promise<void> {
    const memory = this.#memory;
    this.#memory = undefined;
    await memory?.close();
    await rm(this.path(FILES.memory), { force: true });
  }

  async connectChannel(): Promise<void> {
    await this.#sockets.connectChannel(this.path(this.channelName), this.#spec.channelPath);
  }

  async release(): Promise<void> {
    for (const fd of [this.#rootFd, this.#folderFd, this.#apiFd]) if (fd >= 0) closeSync(fd);
    this.#rootFd = -1;
    this.#folderFd = -1;
    this.#apiFd = -1;
    const memory = this.#memory;
    this.#memory = undefined;
    await memory?.close();
    try {
      // A remaining process could redirect the removal out of the jail.
      await endProcessesIn(join(this.#folder, ROOT));
    } finally {
      for (const name of [...this.#lent.keys()]) this.#takeBack(name);
    }
    try {
      await removeCgroups(this.#cgroups);
    } finally {
      await rm(this.#folder, { recursive: true, force: true });
      await removeStaleSocket(this.#spec.channelPath);
    }
  }

  async #linkListeners(): Promise<void> {
    const { channelPath } = this.#spec;
    await this.#sockets.linkListeners(channelPath, (name) => this.path(name), this.#jail);
  }

  /** The jail reads files by the permissions for others, so that one file can be in many jails. */
  async #mayRead(path: string): Promise<boolean> {
    const found = await lstat(path);
    return found.isFile() && found.uid !== this.#jail.uid && (found.mode & 0o006) === 0o004;
  }

  #takeBack(name: string): void {
    const file = this.#lent.get(name);
    this.#lent.delete(name);
    file?.takeBack();
  }
}

function openDirectory(path: string): number {
  return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
}

function unlessThere(error: unknown): void {
  if (errorCode(error) !== 'EEXIST') throw error;
}
