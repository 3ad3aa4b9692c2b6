/**
 * The sockets between the host and a jailed VMM, which may be compromised and may replace its own sockets by links at
 * any time. The host never follows the last name in a directory of the VMM, and checks the result.
 */
import { type BigIntStats, closeSync, constants, fstatSync, openSync } from 'node:fs';
import { chmod, lchown, link, lstat, readdir, rm, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errorCode } from '../../../../base/errors.ts';
import { VmmError } from '../../errors.ts';

/** Linux's `O_PATH`, which Node does not define: opens a file without any effect on it. */
const O_PATH = 0o10000000;

interface User {
  readonly uid: number;
  readonly gid: number;
}

export class VmmSockets {
  /** `identityOf` the host's own sockets that are linked into the jail. */
  readonly #listeners = new Set<string>();

  /**
   * Links the sockets of the existing host listeners (`<channelPath>_<port>`) into the jail and lets its user connect.
   * @param pathOf the host path of a name in the VMM's directory
   * @throws VmmError `vmm_start_failed`
   */
  async linkListeners(channelPath: string, pathOf: (name: string) => string, { uid, gid }: User): Promise<void> {
    const prefix = `${basename(channelPath)}_`;
    for (const name of await readdir(dirname(channelPath))) {
      const port = name.startsWith(prefix) ? name.slice(prefix.length) : '';
      const listener = join(dirname(channelPath), name);
      if (!/^\d{1,10}$/.test(port)) continue;
      const found = await lstat(listener, { bigint: true });
      if (!found.isSocket()) continue;
      this.#listeners.add(identityOf(found));
      await rm(pathOf(name), { force: true });
      await link(listener, pathOf(name)).catch((error: unknown) => {
        throw notInJail(listener, error);
      });
      await lchown(listener, uid, gid);
    }
  }

  /**
   * Opens the API's socket, which the VMM created.
   * @returns a descriptor, owned by the caller
   * @throws Node's error, for example `ENOENT` before it exists; VmmError `vmm_command_failed` if it is no socket
   */
  openApi(path: string): number {
    const fd = openSync(path, O_PATH | constants.O_NOFOLLOW);
    if (this.#isSocketOfVmm(fstatSync(fd, { bigint: true }))) return fd;
    closeSync(fd);
    throw new VmmError('vmm_command_failed', "Firecracker's API can't be used", {
      cause: 'the file in its place is not a socket of Firecracker',
    });
  }

  /**
   * Takes the channel's socket, which the VMM created, out of its directory.
   * @throws VmmError `vmm_start_failed` if it is no socket; Node's errors
   */
  async connectChannel(path: string, channelPath: string): Promise<void> {
    await link(path, channelPath);
    if (!this.#isSocketOfVmm(await lstat(channelPath, { bigint: true }))) {
      await unlink(channelPath);
      throw new VmmError('vmm_start_failed', "the VM's channel is not its own socket");
    }
    // As the jail's file, other users could not connect to it.
    await lchown(channelPath, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
    await chmod(channelPath, 0o600);
  }

  /** Besides these, the jail has only links to the host's listeners. */
  #isSocketOfVmm(found: BigIntStats): boolean {
    return found.isSocket() && !this.#listeners.has(identityOf(found));
  }
}

function identityOf({ dev, ino }: BigIntStats): string {
  return `${dev}:${ino}`;
}

/** The error of a host file that can't be linked into a jail. */
export function notInJail(path: string, cause: unknown): VmmError {
  return new VmmError('vmm_start_failed', `could not put ${path} into a jail`, {
    cause,
    ...(errorCode(cause) === 'EXDEV' ? { remedy: 'Put the jails on the file system of the home.' } : {}),
  });
}
