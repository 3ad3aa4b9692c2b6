/** Puts the program of `metadata-xdp.ts` on a TAP, where this host lets us, and reads what it counted (io). */
import { CodedError } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import { createValueMap, loadXdp, openMapOfProgram, readValueMap } from '../sys/bpf.ts';
import { closeFd } from '../sys/fd.ts';
import { SyscallError } from '../sys/libc.ts';
import { LinkError } from './link-errors.ts';
import type { Links } from './links.ts';
import { COUNTS_BYTES, type MetadataDrops, metadataProgram, readDrops } from './metadata-xdp.ts';

const NAME = 'nv_metadata';

/**
 * `not_permitted`: no CAP_BPF, or a container's seccomp; `unsupported`: a kernel without it; `failed`: of a
 * link, that it has another program already
 */
export type GuardErrorCode = 'not_permitted' | 'unsupported' | 'failed';

/** The packet filter drops the same packets, so who gets this may go on. */
export class GuardError extends CodedError<GuardErrorCode> {}

const REMEDIES: Record<GuardErrorCode, string> = {
  not_permitted: 'give NeuroVisor CAP_BPF (or run it as root, in a container that may call bpf)',
  unsupported: 'use a kernel of 5.12 or later with CONFIG_BPF_SYSCALL',
  failed: 'report it with this message',
};

export interface MetadataGuard {
  /** Since it was put there; what they were at `close` afterwards. */
  drops(): MetadataDrops;
  /** Leaves the program where it is. */
  close(): void;
}

/**
 * Before the link is up, so that no packet passes it. It goes with the link.
 * @throws GuardError
 */
export function guardMetadata(links: Links, linkIndex: number): MetadataGuard {
  const attempt = `drop packets to metadata services on link ${linkIndex}`;
  const { mapFd, programFd } = load(attempt);
  try {
    links.attachXdp(linkIndex, programFd);
  } catch (error) {
    closeFd(mapFd);
    throw guardError(attempt, error);
  } finally {
    closeFd(programFd);
  }
  let final: MetadataDrops | undefined;
  const drops = (): MetadataDrops => final ?? readDrops(readValueMap(mapFd, COUNTS_BYTES));
  return {
    drops,
    close: () => {
      if (final !== undefined) return;
      final = drops();
      closeFd(mapFd);
    },
  };
}

/** Whether this process may load it; nothing is left. @throws GuardError */
export function probeMetadataGuard(): void {
  const { mapFd, programFd } = load('load the program that drops packets to metadata services');
  closeFd(mapFd);
  closeFd(programFd);
}

/**
 * What it counted on a link, of whatever process.
 * @param programId of `Link.xdpProgramId`
 * @returns undefined where it is gone or may not be looked at
 */
export function readMetadataDrops(programId: number): MetadataDrops | undefined {
  let mapFd: number | undefined;
  try {
    mapFd = openMapOfProgram(programId);
    return readDrops(readValueMap(mapFd, COUNTS_BYTES));
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    ignore(error, 'counts of XDP that can not be read');
    return undefined;
  } finally {
    if (mapFd !== undefined) closeFd(mapFd);
  }
}

function load(attempt: string): { mapFd: number; programFd: number } {
  let mapFd: number | undefined;
  try {
    mapFd = createValueMap(NAME, COUNTS_BYTES);
    return { mapFd, programFd: loadXdp(NAME, metadataProgram(mapFd)) };
  } catch (error) {
    if (mapFd !== undefined) closeFd(mapFd);
    throw guardError(attempt, error);
  }
}

function guardError(attempt: string, cause: unknown): unknown {
  if (!(cause instanceof SyscallError || cause instanceof LinkError)) return cause;
  const code = codeOf(cause.code);
  return new GuardError(code, attempt, { cause, remedy: REMEDIES[code] });
}

function codeOf(code: string): GuardErrorCode {
  if (code === 'EPERM' || code === 'not_permitted') return 'not_permitted';
  if (code === 'ENOSYS' || code === 'unsupported') return 'unsupported';
  return 'failed';
}
