/**
 * The working directory of a Firecracker process. Host files appear there under the fixed names of `config.ts`: as
 * symbolic links for a plain process, as hard links or copies in a jail.
 *
 *     <dir>/c             its end of the channel, made by Firecracker (`uds_path` is relative): `channel/relay.ts`
 *     <dir>/c_<port>      listeners of the relay
 *     <dir>/fc/s/a        the API
 *     <dir>/fc/root …     the VM's files
 */
import type { ChildProcess } from 'node:child_process';
import { chmod, lstat, mkdir, rm, symlink, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ifThere } from '../../../base/errors.ts';
import type { VmSpec } from '../driver.ts';
import { VmmError } from '../errors.ts';
import type { LaunchStdio } from '../launch.ts';
import { FILES, FOLDER, MEMORY_FD, SOCKETS } from './config.ts';

export interface Place {
  /** The channel's socket, as Firecracker gets it. */
  readonly channelName: string;
  /** Host path of a name of the process. */
  path(name: string): string;
  /**
   * Path of the API's socket, which the process itself created.
   * @throws Node's error, for example `ENOENT` before it exists; VmmError `vmm_command_failed` if it is no socket
   */
  apiPath(): string;
  /** The command that runs Firecracker here. @param args its arguments, except the id */
  argv(args: readonly string[]): string[];
  /** Starts Firecracker in a jail, instead of with `argv`; the child ends with it. */
  start?(args: readonly string[], stdio: Readonly<LaunchStdio>): ChildProcess;
  /** After `start`: resolves when the process has its limits. @throws the reason why it does not run */
  admitted?(): Promise<void>;
  /**
   * Makes a host file appear under a name, replacing an earlier one.
   * @param use `write`: the process may write to the host's file
   */
  provide(name: string, hostPath: string, use: 'read' | 'write'): Promise<void>;
  /** Undoes `provide`: afterwards only the host can reach its file. */
  withdraw(name: string): Promise<void>;
  /** Makes the process the owner of a pipe or file at `path(name)`. */
  give(name: string): Promise<void>;
  /** Makes the memory of the VM's owner, with its contents, the file `memory`. */
  lendMemory(fd: number): Promise<void>;
  /** Copies what the process wrote there back into that memory. */
  returnMemory(fd: number): Promise<void>;
  /** Opens the channel to the host, once Firecracker has created its socket. */
  connectChannel(): Promise<void>;
  /** Call it after the end of the process. Idempotent. */
  release(): Promise<void>;
}

/** A place without a jail: the process sees everything that its user sees. */
export async function makeDirectPlace(spec: VmSpec, binary: string): Promise<Place> {
  const { dir, channelPath } = spec;
  const channelName = channelNameOf(spec);
  if (dirname(channelPath) !== dir) {
    throw new VmmError('vm_spec_invalid', "the VM's channelPath can't be used", {
      cause: "it is not in the VM's directory",
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

/** Other names in the directory or in the root of a jail. */
const TAKEN = new Set(['fc', 'dev', 'run', 'proc', 'sys', 'firecracker']);

/**
 * File name of the channel. Never empty: Firecracker would take that for an override, and make no socket.
 * @throws VmmError `vm_spec_invalid`
 */
export function channelNameOf({ channelPath }: Pick<VmSpec, 'channelPath'>): string {
  const name = basename(channelPath);
  if (/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(name) && !TAKEN.has(name)) return name;
  throw new VmmError('vm_spec_invalid', "the VM's channelPath can't be used", {
    cause: `${JSON.stringify(name)} is not a valid channel name`,
  });
}

/** Removes a socket, and only a socket: Firecracker leaves its sockets behind and refuses an existing path. */
export async function removeStaleSocket(path: string): Promise<void> {
  if ((await ifThere(lstat(path)))?.isSocket()) await ifThere(unlink(path));
}
