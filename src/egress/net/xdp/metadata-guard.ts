/**
 * Attaches the program of `metadata-program.ts` to TAPs, if this host allows it, and reads its counts (io). All TAPs of
 * a process share one program: for each program that is added or removed, the kernel patches its own code and waits for
 * every processor, 10 ms each time (`bpf_dispatcher_change_prog`).
 */
import { CodedError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import {
  createMap,
  loadXdp,
  openMapOfProgram,
  readMapEntry,
  removeMapEntry,
  writeMapEntry,
} from '../../../sys/bpf/bpf.ts';
import { closeFd } from '../../../sys/fd.ts';
import { SyscallError } from '../../../sys/libc.ts';
import type { Links } from '../link/links.ts';
import { LinkError } from '../netlink/errors.ts';
import { COUNTS_BYTES, type MetadataDrops, metadataProgram, readDrops } from './metadata-program.ts';

const NAME = 'nv_metadata';
/** Links of one process: more than the default pool has subnets. */
const LINKS_MAX = 65_536;

/**
 * `not_permitted`: no CAP_BPF, or a container's seccomp. `unsupported`: the kernel lacks it. `failed`: for example, the
 * link already has another program.
 */
type GuardErrorCode = 'not_permitted' | 'unsupported' | 'failed';

/** Not fatal: the packet filter drops the same packets. */
export class GuardError extends CodedError<GuardErrorCode> {}

const REMEDIES: Record<GuardErrorCode, string> = {
  not_permitted: 'Give NeuroVisor CAP_BPF, or run it as root; in a container, allow the bpf system call.',
  unsupported: 'Use a kernel of 5.12 or later with CONFIG_BPF_SYSCALL.',
  failed: 'Report this message.',
};

export interface MetadataGuard {
  /** Counts since the program was attached; after `close`, the last values. */
  drops(): MetadataDrops;
  /** Ends the counting, and leaves the program attached. */
  close(): void;
}

interface Program {
  readonly mapFd: number;
  readonly programFd: number;
}

export class MetadataGuards {
  readonly #links: Links;
  #program: Program | undefined;

  constructor(links: Links) {
    this.#links = links;
  }

  /** Attach before the link is up, so that no packet bypasses the program. Removed with the link. @throws GuardError */
  guard(linkIndex: number): MetadataGuard {
    const attempt = `drop packets to metadata services on link ${linkIndex}`;
    this.#program ??= load(attempt);
    const { mapFd } = this.#program;
    try {
      writeMapEntry(mapFd, linkIndex, new ArrayBuffer(COUNTS_BYTES));
    } catch (error) {
      throw guardError(attempt, error);
    }
    try {
      this.attach(linkIndex);
    } catch (error) {
      removeMapEntry(mapFd, linkIndex);
      throw error;
    }
    let final: MetadataDrops | undefined;
    const drops = (): MetadataDrops => final ?? readDrops(readMapEntry(mapFd, linkIndex, COUNTS_BYTES));
    return {
      drops,
      close: () => {
        if (final !== undefined) return;
        final = drops();
        removeMapEntry(mapFd, linkIndex);
      },
    };
  }

  /** Attaches the program without counting. @throws GuardError */
  attach(linkIndex: number): void {
    const attempt = `drop packets to metadata services on link ${linkIndex}`;
    this.#program ??= load(attempt);
    try {
      this.#links.attachXdp(linkIndex, this.#program.programFd);
    } catch (error) {
      throw guardError(attempt, error);
    }
  }

  /** Close the guards first. Links keep the program. */
  close(): void {
    if (this.#program !== undefined) unload(this.#program);
    this.#program = undefined;
  }
}

/** Checks that this process may load the program, and leaves nothing behind. @throws GuardError */
export function probeMetadataGuard(): void {
  unload(load('load the program that drops packets to metadata services'));
}

/**
 * Reads the counts of a link's program, of any process.
 * @param programId of `Link.xdpProgramId`
 * @returns undefined if the program is gone, may not be read, or is another one
 */
export function readMetadataDrops(programId: number, linkIndex: number): MetadataDrops | undefined {
  let mapFd: number | undefined;
  try {
    mapFd = openMapOfProgram(programId);
    return readDrops(readMapEntry(mapFd, linkIndex, COUNTS_BYTES));
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    ignore(error, 'XDP counts are unreadable');
    return undefined;
  } finally {
    if (mapFd !== undefined) closeFd(mapFd);
  }
}

function load(attempt: string): Program {
  let mapFd: number | undefined;
  try {
    mapFd = createMap(NAME, COUNTS_BYTES, LINKS_MAX);
    return { mapFd, programFd: loadXdp(NAME, metadataProgram(mapFd)) };
  } catch (error) {
    if (mapFd !== undefined) closeFd(mapFd);
    throw guardError(attempt, error);
  }
}

function unload({ mapFd, programFd }: Program): void {
  closeFd(programFd);
  closeFd(mapFd);
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
