/**
 * The directory that a Firecracker process works in. Files of the host appear there under the fixed names of
 * `config.ts`: as symbolic links when the process runs like any other, as links or copies in a jail.
 *
 *     <dir>/c             its end of the channel, made by Firecracker (`uds_path` is relative): `channel/relay.ts`
 *     <dir>/c_<port>      listeners of the relay
 *     <dir>/fc/s/a        the API
 *     <dir>/fc/root …     what the VM is made of
 */
import { chmod, lstat, mkdir, rm, symlink, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import type { VmSpec } from '../driver.ts';
import { VmmError } from '../errors.ts';
import { FILES, FOLDER, MEMORY_FD, SOCKETS } from './config.ts';

export interface Place {
  /** The channel's socket as Firecracker is told. */
  readonly channelName: string;
  /** Where a name of the process is on the host. */
  path(name: string): string;
  /**
   * Where the API's socket is to be connected to: it is the process' own.
   * @throws Error of Node, e.g. `ENOENT`: it is not there yet; VmmError `vmm_command_failed`: it is something else
   */
  apiPath(): string;
  /** The command that runs Firecracker there. @param args its own arguments but for the id */
  argv(args: readonly string[]): string[];
  /**
   * Makes a file of the host appear under a name; replaces what was there.
   * @param use `write`: the process may change it, and what it writes is in the file of the host
   */
  provide(name: string, hostPath: string, use: 'read' | 'write'): Promise<void>;
  /** Takes it away again: the host's file is the host's alone. */
  withdraw(name: string): Promise<void>;
  /** A pipe or file that was made at `path(name)` is for the process. */
  give(name: string): Promise<void>;
  /** Memory of the VM's owner becomes the file `memory`, with what is in it. */
  lendMemory(fd: number): Promise<void>;
  /** What the process has written there is in that memory. */
  returnMemory(fd: number): Promise<void>;
  /** Makes the host reach the channel, once Firecracker has made its socket. */
  connectChannel(): Promise<void>;
  /** After the process has ended. Idempotent. */
  release(): Promise<void>;
}

/** No jail. The process sees what its user sees. */
export async function makeDirectPlace(spec: VmSpec, binary: string): Promise<Place> {
  const { dir, channelPath } = spec;
  const channelName = channelNameOf(spec);
  if (dirname(channelPath) !== dir) {
    throw new VmmError('vm_spec_invalid', "the VM's channelPath can't be used", {
      cause: 'it is not in the directory of the VM',
    });
  }
  const path = (name: string): string => join(dir, name);
  await removeStaleSocket(channelPath);
  const folder = path(FOLDER);
  await rm(folder, { recursive: true, force: true });
  for (const made of [folder, path(SOCKETS)]) await mkdir(made, { mode: 0o700 });
  return {
    channelName,
    path,
    apiPath: () => path(FILES.api),
    // env (coreutils) becomes the process by execve, so the pid is Firecracker's.
    argv: (args) => ['env', '-C', dir, '--', binary, '--id', spec.id, ...args],
    async provide(name, hostPath) {
      await rm(path(name), { force: true });
      await symlink(hostPath, path(name));
    },
    withdraw: (name) => rm(path(name), { force: true }),
    give: async () => undefined,
    async lendMemory() {
      await rm(path(FILES.memory), { force: true });
      // The process has inherited it.
      await symlink(`/proc/self/fd/${MEMORY_FD}`, path(FILES.memory));
    },
    returnMemory: () => rm(path(FILES.memory), { force: true }),
    connectChannel: () => chmod(channelPath, 0o600),
    async release() {
      await rm(folder, { recursive: true, force: true });
      await removeStaleSocket(channelPath);
    },
  };
}

/** What else is in the directory, or in the root of a jail. */
const TAKEN = new Set(['fc', 'dev', 'run', 'proc', 'sys', 'firecracker']);

/**
 * The channel's name alone. Never empty: Firecracker would take that for an override, and make no socket.
 * @throws VmmError `vm_spec_invalid`
 */
export function channelNameOf({ channelPath }: Pick<VmSpec, 'channelPath'>): string {
  const name = basename(channelPath);
  if (/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(name) && !TAKEN.has(name)) return name;
  throw new VmmError('vm_spec_invalid', "the VM's channelPath can't be used", {
    cause: `${JSON.stringify(name)} is no name for it`,
  });
}

/** Firecracker leaves its sockets behind and refuses a path where one is. Nothing but a socket is removed. */
export async function removeStaleSocket(path: string): Promise<void> {
  try {
    if ((await lstat(path)).isSocket()) await unlink(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
}
