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
 *
 * A user id is taken by flock of a file, so that several NeuroVisors of one host never share one, and a
 * killed one gives its back.
 */
import { spawn } from 'node:child_process';
import {
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '../base/clock.ts';
import { errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import { tryLockExclusive } from '../sys/file.ts';
import { JailError } from './errors.ts';
import { requirePrivateDir } from './private-dir.ts';

export interface UidRange {
  readonly first: number;
  readonly count: number;
}

/** In a range that systemd's table of user ids leaves unused (UIDS-GIDS.md). */
export const DEFAULT_UIDS: UidRange = { first: 1_900_000_000, count: 4096 };
const UID_MIN = 1_000;
/** (uid_t) -1 means "no change" in system calls. */
const UID_MAX = 2 ** 32 - 2;
const UIDS_MAX = 65_536;

/** `FIRST:COUNT`. @returns undefined for anything else, and for ids of the system or of nobody */
export function parseUidRange(text: string): UidRange | undefined {
  const match = /^(\d{1,10}):(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const [first, count] = [Number(match[1]), Number(match[2])];
  const last = first + count - 1;
  const holdsNobody = first <= NOBODY && NOBODY <= last;
  if (first < UID_MIN || count < 1 || count > UIDS_MAX || last > UID_MAX || holdsNobody) {
    return undefined;
  }
  return { first, count };
}

/** What unmapped ids look like (kernel/user_namespace.c); many programs run as it. */
const NOBODY = 65_534;

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
  readonly #dir: string;
  readonly #range: UidRange;
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
    requirePrivateDir(dir);
    this.#dir = dir;
    this.#range = range;
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

  /**
   * Ends VMMs of the range that have lost their parent and whose user nobody holds: a NeuroVisor was killed
   * while it started them. Others of the range may be those of a container, with locks of their own.
   * @returns how many
   */
  endOrphans(): number {
    let ended = 0;
    const depth = processOf('self')?.namespaces ?? 1;
    for (const [pid, { uid, parent, namespaces }] of this.#processes()) {
      // A VMM is the first process of a namespace; its parent, bubblewrap, is of the same user and outside.
      if (namespaces <= depth || processOf(parent)?.uid === uid) continue;
      const lockFd = this.#lock(uid);
      if (lockFd === undefined) continue;
      try {
        process.kill(pid, 'SIGKILL');
        ended += 1;
      } catch (error) {
        if (errorCode(error) !== 'ESRCH') throw error;
      } finally {
        closeSync(lockFd);
      }
    }
    return ended;
  }

  /** Of users of the range. */
  *#processes(): Generator<[number, ProcessFacts]> {
    const { first, count } = this.#range;
    for (const name of readdirSync('/proc')) {
      const pid = Number(name);
      const uid = Number.isInteger(pid) ? userOf(pid) : undefined;
      if (uid === undefined || uid < first || uid >= first + count) continue;
      const facts = processOf(pid);
      if (facts !== undefined) yield [pid, facts];
    }
  }

  async #make(): Promise<Held> {
    const { uid, lockFd } = this.#takeUid();
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

  #takeUid(): { uid: number; lockFd: number } {
    const { first, count } = this.#range;
    // Those of a container of this host have locks of their own, but are seen.
    const seen = new Set([...this.#processes()].map(([, { uid }]) => uid));
    for (let uid = first; uid < first + count; uid += 1) {
      if (seen.has(uid)) continue;
      const lockFd = this.#lock(uid);
      if (lockFd !== undefined) return { uid, lockFd };
    }
    throw new JailError('jail_unavailable', `take one of ${count} user ids from ${first} on`, {
      cause: 'all are in use',
      remedy: 'End other sandboxes, or set NEUROVISOR_JAIL_UIDS to a larger range.',
    });
  }

  #lock(uid: number): number | undefined {
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
    const fd = openSync(join(this.#dir, `uid-${uid}`), flags, 0o600);
    if (tryLockExclusive(fd)) return fd;
    closeSync(fd);
    return undefined;
  }
}

function drop({ lockFd, namespaceFd }: Held): void {
  closeSync(namespaceFd);
  closeSync(lockFd);
}

/** @returns undefined for a process that has ended */
function userOf(pid: number): number | undefined {
  try {
    return statSync(`/proc/${pid}`).uid;
  } catch (error) {
    ignore(error, 'a process that has ended');
    return undefined;
  }
}

interface ProcessFacts {
  readonly uid: number;
  readonly parent: number;
  /** Pid namespaces that it is in, seen from here. */
  readonly namespaces: number;
}

/** @returns undefined for a process that has ended */
function processOf(pid: number | 'self'): ProcessFacts | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1');
    const field = (name: string): string[] =>
      new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1]?.split(/\s+/) ?? [];
    const [uid, parent] = [Number(field('Uid')[0]), Number(field('PPid')[0])];
    return { uid, parent, namespaces: field('NSpid').length };
  } catch (error) {
    ignore(error, 'a process that has ended');
    return undefined;
  }
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
