/**
 * Who a jailed VMM is: a user id that no other process of the host has, in a user namespace of its own (io).
 *
 *     in the namespace      on the host
 *     0  the VMM       ──►  the user id of this sandbox; no capability, and none to be had
 *     1                ──►  0, so that bubblewrap may look up files of root while it makes the mounts
 *
 * bubblewrap runs as 0 of the namespace, so it and the VMM are the same user: the kernel lets the parent's
 * death kill the child only then (kernel/signal.c, `kill_ok_by_cred`). Made by root alone, who needs no
 * permission for it, also where unprivileged user namespaces are forbidden.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { systemClock } from '../base/clock.ts';
import { ignore } from '../base/ignore.ts';
import { JailError } from './errors.ts';
import { type UidRange, UserIds } from './user-ids.ts';

/** From a start until the identity of the next is made. */
const PREPARE_MS = 5_000;

export interface Identity {
  readonly uid: number;
  readonly gid: number;
  /** Of the user namespace, as other processes of this user can open it. */
  readonly namespacePath: string;
}

interface Held extends Identity {
  readonly lockFd: number;
  readonly namespaceFd: number;
}

export class Identities {
  readonly #ids: UserIds;
  readonly #gid: number | null;
  readonly #taken = new Map<number, Held>();
  /** One waits, so that a start need not; more would only hold descriptors. */
  #idle: Promise<Held> | undefined;
  #cancelPreparing: () => void = () => undefined;
  #closed = false;

  /**
   * @param dir the same for all processes of the host; is made
   * @param gid for all, where a device is open to a group; null: as the user id
   * @throws JailError `jail_dir_unsafe`
   */
  constructor(dir: string, range: UidRange, gid: number | null) {
    this.#ids = new UserIds(dir, range);
    this.#gid = gid;
  }

  /** @throws JailError `jail_unavailable` when there is none left, or no namespace can be made */
  async acquire(): Promise<Identity> {
    const idle = this.#idle;
    this.#idle = undefined;
    const held = await (idle ?? this.#make());
    this.#taken.set(held.uid, held);
    // Not beside the start that it would slow down.
    this.#cancelPreparing();
    this.#cancelPreparing = systemClock.after(PREPARE_MS, () => this.prepare());
    return held;
  }

  /** After the last process of it has ended. Idempotent. */
  release(identity: Identity): void {
    const held = this.#taken.get(identity.uid);
    if (held === undefined) return;
    this.#taken.delete(identity.uid);
    if (this.#closed || this.#idle !== undefined) drop(held);
    else this.#idle = Promise.resolve(held);
  }

  /** Makes one before it is needed. */
  prepare(): void {
    if (this.#closed || this.#idle !== undefined) return;
    const idle = this.#make();
    this.#idle = idle;
    idle.catch((error: unknown) => {
      ignore(error, 'the next start tries again, or is told');
      if (this.#idle === idle) this.#idle = undefined;
    });
  }

  /** Those in use are given back when they are released. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelPreparing();
    const idle = this.#idle;
    this.#idle = undefined;
    await idle?.then(drop, (error: unknown) => ignore(error, 'none was made'));
  }

  /** @returns how many. See `UserIds` */
  endOrphans(): number {
    return this.#ids.endOrphans();
  }

  async #make(): Promise<Held> {
    const { uid, lockFd } = this.#ids.take();
    try {
      const gid = this.#gid ?? uid;
      const namespaceFd = await makeNamespace(uid, gid);
      const namespacePath = `/proc/${process.pid}/fd/${namespaceFd}`;
      return { uid, gid, lockFd, namespaceFd, namespacePath };
    } catch (error) {
      closeSync(lockFd);
      throw error;
    }
  }
}

function drop({ lockFd, namespaceFd }: Held): void {
  closeSync(namespaceFd);
  closeSync(lockFd);
}

/**
 * A process makes the namespace and says so; its maps are written from outside, and it ends.
 * @returns a descriptor of the namespace, which is the caller's
 * @throws JailError `jail_unavailable`
 */
async function makeNamespace(uid: number, gid: number): Promise<number> {
  const child = spawn('unshare', ['--user', '--', 'cat'], { stdio: ['pipe', 'pipe', 'pipe'] });
  try {
    await answers(child);
    writeFileSync(`/proc/${child.pid}/uid_map`, `0 ${uid} 1\n1 0 1\n`);
    writeFileSync(`/proc/${child.pid}/gid_map`, `0 ${gid} 1\n${gid === 0 ? '' : '1 0 1\n'}`);
    return openSync(`/proc/${child.pid}/ns/user`, 'r');
  } catch (cause) {
    throw new JailError('jail_unavailable', `make a user namespace for the user id ${uid}`, {
      cause,
      remedy:
        'Let root make user namespaces (sysctl user.max_user_namespaces), or set NEUROVISOR_JAIL_UIDS to ids that this host maps.',
    });
  } finally {
    child.kill('SIGKILL');
  }
}

/** Resolves when `cat` has sent back what it was sent: then `unshare` has done its part. */
function answers(child: ReturnType<typeof spawn>): Promise<void> {
  return new Promise((resolve, reject) => {
    let words = '';
    child.stderr?.on('data', (bytes: Buffer) => {
      words = (words + bytes.toString('utf8')).slice(0, WORDS_MAX);
    });
    child.stdin?.on('error', (error) => ignore(error, 'told by its end'));
    child.once('error', reject);
    child.once('close', (status) =>
      reject(new Error(words.trim() === '' ? `unshare ended with ${status}` : words.trim())),
    );
    child.stdout?.once('data', () => resolve());
    child.stdin?.write('\n');
  });
}

const WORDS_MAX = 1_000;
