/**
 * User ids for VMMs (I/O). Each is claimed by a flock on a file: several NeuroVisors of one host never share an id, and
 * a killed one frees its ids.
 */
import { closeSync, constants, openSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { tryOr } from '../../base/ignore.ts';
import { tryLockExclusive } from '../../sys/file.ts';
import { JailError } from './errors.ts';
import { requirePrivateDir } from './private-dir.ts';

export interface UidRange {
  readonly first: number;
  readonly count: number;
}

/** A range that systemd's table of user ids leaves unused (UIDS-GIDS.md). */
export const DEFAULT_UIDS: UidRange = { first: 1_900_000_000, count: 4096 };
const UID_MIN = 1_000;
/** (uid_t) -1 means "no change" in system calls. */
const UID_MAX = 2 ** 32 - 2;
const UIDS_MAX = 65_536;

/** Parses `FIRST:COUNT`. @returns undefined for anything else, and for system ids or the user nobody */
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

/** The id that unmapped ids appear as (kernel/user_namespace.c); many programs run as it. */
const NOBODY = 65_534;

/** An id that no other process of the host has. */
export interface TakenUid {
  readonly uid: number;
  /** Owned by the caller; closing it frees the id. */
  readonly lockFd: number;
}

export class UserIds {
  readonly #dir: string;
  readonly #range: UidRange;

  /**
   * @param dir the same for all processes of the host; created if missing
   * @throws JailError `jail_dir_unsafe`
   */
  constructor(dir: string, range: UidRange) {
    requirePrivateDir(dir);
    this.#dir = dir;
    this.#range = range;
  }

  /** @throws JailError `jail_unavailable` if none is free */
  take(): TakenUid {
    const { first, count } = this.#range;
    // VMMs of a container on this host have other lock files, but their processes are visible.
    const seen = new Set([...this.#processes()].map(([, { uid }]) => uid));
    for (let uid = first; uid < first + count; uid += 1) {
      if (seen.has(uid)) continue;
      const lockFd = this.#lock(uid);
      if (lockFd !== undefined) return { uid, lockFd };
    }
    throw new JailError('jail_unavailable', `could not claim one of ${count} user ids from ${first} on`, {
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

  /**
   * Kills VMMs of the range that have lost their parent and whose id is unclaimed: their NeuroVisor was killed while it
   * started them. Others of the range may belong to a container with its own lock files.
   * @returns the number of killed processes
   */
  endOrphans(): number {
    let ended = 0;
    const depth = processOf('self')?.namespaces ?? 1;
    for (const [pid, { name, uid, parent, namespaces }] of this.#processes()) {
      // A VMM is the first process of a namespace; its parent, bubblewrap, has the same user and is outside.
      if (namespaces <= depth || processOf(parent)?.uid === uid) continue;
      // The jailer ends before Firecracker, which then never has a parent of ours; its jail is reclaimed by its
      // directory.
      if (name === FIRECRACKER) continue;
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

  /** Processes whose user is in the range. */
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
}

/** @returns undefined for a process that has ended */
function userOf(pid: number): number | undefined {
  return tryOr(undefined, 'the process has ended', () => statSync(`/proc/${pid}`).uid);
}

const FIRECRACKER = 'firecracker';

interface ProcessFacts {
  /** Name of its main thread; a process can choose it. */
  readonly name: string;
  readonly uid: number;
  readonly parent: number;
  /** Number of pid namespaces that it is in, seen from here. */
  readonly namespaces: number;
}

/** @returns undefined for a process that has ended */
function processOf(pid: number | 'self'): ProcessFacts | undefined {
  return tryOr(undefined, 'the process has ended', () => {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1');
    const field = (name: string): string[] =>
      new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1]?.split(/\s+/) ?? [];
    const [uid, parent] = [Number(field('Uid')[0]), Number(field('PPid')[0])];
    const [name = ''] = field('Name');
    return { name, uid, parent, namespaces: field('NSpid').length };
  });
}
