/**
 * The identity of a jailed VMM: a user id that no other process of the host has, in its own user namespace (I/O).
 *
 *     in the namespace      on the host
 *     0  the VMM       ──►  the user id of this sandbox; no capability, and no way to get one
 *
 * No other id is mapped, least of all root's: whatever goes wrong in the jail, nothing in it becomes root.
 * bubblewrap runs as 0 of the namespace, so it and the VMM are the same user: only then does the kernel let the
 * parent's death kill the child (kernel/signal.c, `kill_ok_by_cred`). Only root makes such namespaces, so this works
 * even where unprivileged user namespaces are forbidden.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { systemClock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import { JailError } from './errors.ts';
import { type UidRange, UserIds } from './user-ids.ts';

/** Delay after a start before the next identity is prepared. */
const PREPARE_MS = 5_000;

export interface Identity {
  readonly uid: number;
  readonly gid: number;
  /** Path by which other processes of this user can open the user namespace. */
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
  /** A prepared identity, so that a start need not wait; more would only waste descriptors. */
  #idle: Promise<Held> | undefined;
  #cancelPreparing: () => void = () => undefined;
  #closed = false;

  /**
   * @param dir the same for all processes of the host; created if missing
   * @param gid shared by all, for devices that are open to a group; `null`: equal to the user id
   * @throws JailError `jail_dir_unsafe`
   */
  constructor(dir: string, range: UidRange, gid: number | null) {
    this.#ids = new UserIds(dir, range);
    this.#gid = gid;
  }

  /** @throws JailError `jail_unavailable` if no id is free or no namespace can be made */
  async acquire(): Promise<Identity> {
    const idle = this.#idle;
    this.#idle = undefined;
    const held = await (idle ?? this.#make());
    this.#taken.set(held.uid, held);
    // Delayed, so that it does not slow down this start.
    this.#cancelPreparing();
    this.#cancelPreparing = systemClock.after(PREPARE_MS, () => this.prepare());
    return held;
  }

  /** Call it after the identity's last process has ended. Idempotent. */
  release(identity: Identity): void {
    const held = this.#taken.get(identity.uid);
    if (held === undefined) return;
    this.#taken.delete(identity.uid);
    if (this.#closed || this.#idle !== undefined) drop(held);
    else this.#idle = Promise.resolve(held);
  }

  /** Makes an identity before it is needed. */
  prepare(): void {
    if (this.#closed || this.#idle !== undefined) return;
    const idle = this.#make();
    this.#idle = idle;
    idle.catch((error: unknown) => {
      ignore(error, 'the next start tries again and reports the failure');
      if (this.#idle === idle) this.#idle = undefined;
    });
  }

  /** Identities in use are freed when they are released. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelPreparing();
    const idle = this.#idle;
    this.#idle = undefined;
    await idle?.then(drop, (error: unknown) => ignore(error, 'no identity was made'));
  }

  /** @returns the number of killed processes; see `UserIds` */
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
 * Lets a helper process make the namespace, writes its id maps from outside, and ends the helper.
 * @returns a descriptor of the namespace, owned by the caller
 * @throws JailError `jail_unavailable`
 */
async function makeNamespace(uid: number, gid: number): Promise<number> {
  const child = spawn('unshare', ['--user', '--', 'cat'], { stdio: ['pipe', 'pipe', 'pipe'] });
  try {
    await answers(child);
    writeFileSync(`/proc/${child.pid}/uid_map`, `0 ${uid} 1\n`);
    writeFileSync(`/proc/${child.pid}/gid_map`, `0 ${gid} 1\n`);
    return openSync(`/proc/${child.pid}/ns/user`, 'r');
  } catch (cause) {
    throw new JailError('jail_unavailable', `could not make a user namespace for the user id ${uid}`, {
      cause,
      remedy:
        'Let root make user namespaces (sysctl user.max_user_namespaces), or set NEUROVISOR_JAIL_UIDS to ids that this host maps.',
    });
  } finally {
    child.kill('SIGKILL');
  }
}

/** Resolves when `cat` echoes a line: then `unshare` has made the namespace. */
function answers(child: ReturnType<typeof spawn>): Promise<void> {
  return new Promise((resolve, reject) => {
    let words = '';
    child.stderr?.on('data', (bytes: Buffer) => {
      words = (words + bytes.toString('utf8')).slice(0, WORDS_MAX);
    });
    child.stdin?.on('error', (error) => ignore(error, 'reported by the end of the process'));
    child.once('error', reject);
    child.once('close', (status) =>
      reject(new Error(words.trim() === '' ? `unshare ended with ${status}` : words.trim())),
    );
    child.stdout?.once('data', () => resolve());
    child.stdin?.write('\n');
  });
}

const WORDS_MAX = 1_000;
