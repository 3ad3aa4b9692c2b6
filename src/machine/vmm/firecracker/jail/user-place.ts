/**
 * The place of a process that an ordinary user jails: it has the host's user, but a root of its own, which a
 * program makes of mounts (`UserJailSpec.start`).
 *
 *     host                             in the jail
 *     <dir>/own/                 ──►   /vm/               its working directory; it makes the channel here
 *     <dir>/fc/                  ──►   /vm/fc/            read-only: it can't change a name here
 *     <dir>/fc/s/                ──►   /vm/fc/s/          its own: the API's socket, and files that it writes later
 *     the VM's kernel, disks …   ──►   /vm/fc/kernel …    read-only, except the overlay
 *
 * Files that it gets before its start are mounted, so nothing is copied. Later files are hard links in `fc/s`, to which
 * links in `fc` point; the host never follows a name in a directory of the VMM.
 */
import type { ChildProcess } from 'node:child_process';
import { closeSync } from 'node:fs';
import { link, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { DiskLimits, VmSpec } from '../../driver.ts';
import { VmmError } from '../../errors.ts';
import type { LaunchStdio } from '../../launch.ts';
import { FILES, FOLDER, MEMORY_FD, SOCKETS } from '../config.ts';
import { channelNameOf, type Place, removeStaleSocket } from '../place.ts';
import { LentFile } from './lent-file.ts';
import { notInJail, VmmSockets } from './sockets.ts';

/** The jail of one VM of an ordinary user. */
export interface UserJailSpec {
  /** This process's own. */
  readonly uid: number;
  readonly gid: number;
  /** Number of the jail's seccomp filters, beside Firecracker's own on each thread. */
  readonly filters: number;
  /** Starts Firecracker in the jail; the child ends with it, with its status, 128 + n for signal n. */
  start(plan: UserJailPlan): UserJailed;
  readonly limitDisks?: (limits: DiskLimits) => void;
  /** Called once the VM has ended. */
  readonly release?: () => Promise<void>;
}

export interface UserJailPlan {
  readonly args: readonly string[];
  readonly stdio: Readonly<LaunchStdio>;
  readonly dir: string;
  /** Working directory in the jail. */
  readonly cwd: string;
  /** Shown in the jail besides the program and its devices, in this order. */
  readonly files: readonly JailMount[];
}

interface JailMount {
  /** Absolute path on the host. */
  readonly path: string;
  /** Path in the jail. */
  readonly at: string;
  /** `tree`: a directory, read-only. `own`: a directory of the VMM. */
  readonly access: 'read' | 'write' | 'tree' | 'own';
}

export interface UserJailed {
  readonly child: ChildProcess;
  /** Resolves when the process has its limits and runs. @throws the reason why it does not */
  readonly admitted: Promise<unknown>;
}

const OWN = 'own';
const CWD = '/vm';

/** @throws VmmError `vm_spec_invalid` */
export async function makeUserPlace(spec: VmSpec, jail: UserJailSpec): Promise<Place> {
  channelNameOf(spec);
  if (spec.nic !== undefined) {
    throw new VmmError('vm_unsupported', "Firecracker can't start the VM", { cause: 'a network card needs root' });
  }
  const place = new UserPlace(spec, jail);
  try {
    await place.prepare();
  } catch (error) {
    await place.release();
    throw error;
  }
  return place;
}

class UserPlace implements Place {
  readonly channelName: string;
  readonly #spec: VmSpec;
  readonly #jail: UserJailSpec;
  readonly #mounts: JailMount[];
  readonly #sockets = new VmmSockets();
  readonly #lent = new Map<string, LentFile>();
  #started: UserJailed | undefined;
  /** The API's socket, once it exists. */
  #apiFd = -1;

  constructor(spec: VmSpec, jail: UserJailSpec) {
    this.#spec = spec;
    this.#jail = jail;
    this.channelName = channelNameOf(spec);
    this.#mounts = [
      { path: join(spec.dir, OWN), at: CWD, access: 'own' },
      { path: join(spec.dir, FOLDER), at: join(CWD, FOLDER), access: 'tree' },
      { path: join(spec.dir, SOCKETS), at: join(CWD, SOCKETS), access: 'own' },
    ];
  }

  async prepare(): Promise<void> {
    const { dir, channelPath } = this.#spec;
    await this.#removeDirectories();
    for (const name of [OWN, join(OWN, FOLDER), FOLDER, SOCKETS]) {
      await mkdir(join(dir, name), { mode: 0o700 });
    }
    await removeStaleSocket(channelPath);
    await this.#sockets.linkListeners(channelPath, (name) => this.path(name), this.#jail);
  }

  path(name: string): string {
    const isInFolder = name.startsWith(`${FOLDER}/`);
    return join(this.#spec.dir, ...(isInFolder ? [] : [OWN]), name);
  }

  apiPath(): string {
    if (this.#apiFd < 0) this.#apiFd = this.#sockets.openApi(this.path(FILES.api));
    return `/proc/self/fd/${this.#apiFd}`;
  }

  argv(args: readonly string[]): string[] {
    return ['--id', this.#spec.id, ...args];
  }

  start(args: readonly string[], stdio: Readonly<LaunchStdio>): ChildProcess {
    const { dir } = this.#spec;
    const files = this.#mounts;
    this.#started = this.#jail.start({ args: this.argv(args), stdio, dir, cwd: CWD, files });
    return this.#started.child;
  }

  async admitted(): Promise<void> {
    await this.#started?.admitted;
  }

  async provide(name: string, hostPath: string, use: 'read' | 'write'): Promise<void> {
    await this.withdraw(name);
    if (this.#started !== undefined) {
      await this.#provideLate(name, hostPath, use);
      return;
    }
    if (use === 'write') this.#lend(name, hostPath);
    // An empty file to mount on.
    await writeFile(this.path(name), '', { flag: 'wx', mode: 0o600 });
    this.#mounts.push({ path: hostPath, at: join(CWD, name), access: use });
  }

  async #provideLate(name: string, hostPath: string, use: 'read' | 'write'): Promise<void> {
    if (use === 'write') this.#lend(name, hostPath);
    const beside = join(SOCKETS, basename(name));
    await link(hostPath, this.path(beside)).catch((error: unknown) => {
      throw notInJail(hostPath, error);
    });
    await symlink(join(basename(SOCKETS), basename(name)), this.path(name));
  }

  #lend(name: string, hostPath: string): void {
    try {
      this.#lent.set(name, LentFile.open(hostPath));
    } catch (error) {
      throw notInJail(hostPath, error);
    }
  }

  async withdraw(name: string): Promise<void> {
    await rm(this.path(name), { force: true });
    await rm(this.path(join(SOCKETS, basename(name))), { force: true });
    this.#takeBack(name);
  }

  /** The process has the same user. */
  give = async (): Promise<void> => undefined;

  async lendMemory(): Promise<void> {
    await this.withdraw(FILES.memory);
    // The process has inherited it.
    await symlink(`/proc/self/fd/${MEMORY_FD}`, this.path(FILES.memory));
  }

  returnMemory = (): Promise<void> => rm(this.path(FILES.memory), { force: true });

  connectChannel(): Promise<void> {
    return this.#sockets.connectChannel(this.path(this.channelName), this.#spec.channelPath);
  }

  async release(): Promise<void> {
    if (this.#apiFd >= 0) closeSync(this.#apiFd);
    this.#apiFd = -1;
    for (const name of [...this.#lent.keys()]) this.#takeBack(name);
    await this.#removeDirectories();
    await removeStaleSocket(this.#spec.channelPath);
  }

  async #removeDirectories(): Promise<void> {
    for (const name of [OWN, FOLDER]) {
      await rm(join(this.#spec.dir, name), { recursive: true, force: true });
    }
  }

  #takeBack(name: string): void {
    const file = this.#lent.get(name);
    this.#lent.delete(name);
    file?.takeBack();
  }
}
