/**
 * Syscalls that our VMMs' seccomp filters refused or logged, read from the kernel's audit socket. The socket has every
 * record (beside auditd, too); the kernel log has only ten in five seconds. Firecracker itself reports which call ended
 * it; the kernel does not, since that filter only sends a signal.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { type Clock, systemClock } from '../../base/clock.ts';
import { describeError, errorCode } from '../../base/errors.ts';
import { ignore, tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { Counter } from '../../base/metrics.ts';
import { AUDIT_ARCH, syscallName } from '../../machine/jail/seccomp/syscalls.ts';
import { parseSeccompRecord, type SeccompRecord } from '../../machine/observe/seccomp-record.ts';
import type { VmExit } from '../../machine/vmm/driver.ts';
import type { ViolationMark } from '../../sandbox/contract/ending.ts';
import type { HostViolations } from '../../sandbox/contract/parts.ts';
import { NETLINK, NetlinkSocket } from '../../sys/netlink-socket.ts';

/** Interval between two reads of the socket while a VMM runs. The socket buffers records meanwhile. */
const LOOK_GAP_MS = 500;
const RECORDS_MAX = 1_000;
/** Records kept for unknown processes: a VMM may violate its filter before its pid is registered. */
const UNKNOWN_MAX = 64;
/**
 * Longest time from a VMM's start until its pid is registered. Older records belong to another process with that pid.
 */
const UNKNOWN_MS_MAX = 60_000;
/** A kernel thread sends the records, so they may arrive after the process has ended. */
const LATE_MS_MAX = 5_000;
const LATE_GAP_MS = 20;
/** AUDIT_NLGRP_READLOG (linux/audit.h), as a bit. */
const GROUP_READLOG = 1;
/** PROC_PID_INIT_INO (include/linux/proc_ns.h): the namespace of the pids in records. */
const FIRST_PID_NAMESPACE = 'pid:[4026531836]';

export interface RecordSource {
  /** Undefined if no record is waiting. @throws SyscallError `ENOBUFS` if records were lost */
  receive(): Uint8Array | undefined;
  close(): void;
}

export class VmmViolations {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #vmm: string;
  readonly #source: RecordSource | null;
  readonly #watched = new Map<number, Watch>();
  readonly #unknown = new Map<number, SeccompRecord[]>();
  readonly #violations = new Counter(
    'neurovisor_seccomp_violations_total',
    'System calls of VMMs that seccomp refused (enforce) or logged (log).',
    ['vmm', 'mode'],
  );
  readonly #lost = new Counter(
    'neurovisor_seccomp_records_lost_total',
    'Times that the kernel dropped records of refused calls.',
  );
  #cancel: (() => void) | null = null;

  /** @param options `vmm`: name of the driver; `source`: `null` if the kernel's records can't be read */
  constructor(options: {
    readonly clock: Clock;
    readonly log: Log;
    readonly vmm: string;
    readonly source: RecordSource | null;
  }) {
    this.#clock = options.clock;
    this.#log = options.log;
    this.#vmm = options.vmm;
    this.#source = options.source;
    // Exist from the start, so that rates can be computed.
    for (const mode of ['enforce', 'log']) this.#violations.add({ vmm: this.#vmm, mode }, 0);
  }

  get metrics(): readonly Counter<string>[] {
    return [this.#violations, this.#lost];
  }

  watch(vmmPid: number): HostViolations {
    const watch = new Watch();
    // Without a VMM the socket is not read.
    this.#look();
    this.#watched.set(vmmPid, watch);
    const sinceMs = this.#clock.wall() - UNKNOWN_MS_MAX;
    for (const record of this.#unknown.get(vmmPid) ?? []) if (record.atMs >= sinceMs) this.#take(watch, vmmPid, record);
    this.#unknown.delete(vmmPid);
    this.#schedule();
    return { settle: (exit) => this.#settle(vmmPid, watch, exit) };
  }

  close(): void {
    this.#cancel?.();
    this.#cancel = null;
    this.#watched.clear();
    this.#source?.close();
  }

  async #settle(vmmPid: number, watch: Watch, exit: VmExit | undefined): Promise<ViolationMark | null> {
    this.#look();
    const isRefused = exit?.signal === 'SIGSYS' || exit?.refusedSyscall !== undefined;
    if (exit?.signal === 'SIGSYS' && this.#source !== null) {
      for (let ms = 0; ms < LATE_MS_MAX && watch.refused === 0; ms += LATE_GAP_MS) {
        await this.#pause(LATE_GAP_MS);
        this.#look();
      }
    }
    this.#watched.delete(vmmPid);
    // The kernel sent no record: the exit is the only evidence.
    if (isRefused && watch.refused === 0) this.#note(watch, vmmPid, 'refused');
    if (exit?.refusedSyscall !== undefined) {
      watch.last = { ...named(exit.refusedSyscall), address: null, action: 'refused' };
      watch.atMs = this.#clock.wall();
    }
    return watch.mark();
  }

  #pause(ms: number): Promise<void> {
    const over = Promise.withResolvers<void>();
    this.#clock.after(ms, over.resolve);
    return over.promise;
  }

  #schedule(): void {
    if (this.#source === null || this.#cancel !== null || this.#watched.size === 0) return;
    this.#cancel = this.#clock.after(LOOK_GAP_MS, () => {
      this.#cancel = null;
      this.#look();
      this.#schedule();
    });
  }

  #look(): void {
    for (let taken = 0; taken < RECORDS_MAX; taken += 1) {
      const datagram = this.#receive();
      if (datagram === undefined) return;
      const record = datagram === null ? undefined : parseSeccompRecord(datagram);
      if (record === undefined) continue;
      const watch = this.#watched.get(record.pid);
      if (watch === undefined) this.#keep(record);
      else this.#take(watch, record.pid, record);
    }
  }

  /** `null` if records were lost. */
  #receive(): Uint8Array | null | undefined {
    try {
      return this.#source?.receive();
    } catch (error) {
      this.#lost.add({});
      if (errorCode(error) === 'ENOBUFS') return null;
      // Called by a timer, which has no caller to report to.
      this.#log.debug('could not read an audit record', { reason: describeError(error) });
      return undefined;
    }
  }

  #keep(record: SeccompRecord): void {
    const known = this.#unknown.get(record.pid);
    if (known !== undefined) {
      known.push(record);
      if (known.length > UNKNOWN_MAX) known.shift();
      return;
    }
    this.#unknown.set(record.pid, [record]);
    const [oldest] = this.#unknown.keys();
    if (this.#unknown.size > UNKNOWN_MAX && oldest !== undefined) this.#unknown.delete(oldest);
  }

  #take(watch: Watch, vmmPid: number, record: SeccompRecord): void {
    const { syscall, arch, address, action } = record;
    // Another architecture, 32-bit calls included, numbers its calls differently.
    const call = arch === AUDIT_ARCH.x86_64 ? named(syscall) : { syscall, name: null };
    watch.last = { ...call, address, action };
    watch.atMs = this.#clock.wall();
    this.#note(watch, vmmPid, action);
  }

  #note(watch: Watch, vmmPid: number, action: 'refused' | 'logged'): void {
    this.#violations.add({ vmm: this.#vmm, mode: action === 'logged' ? 'log' : 'enforce' });
    watch[action] += 1;
    if (watch.refused + watch.logged > 1) return;
    const call = watch.last === null ? {} : { syscall: watch.last.name ?? watch.last.syscall };
    this.#log.warn(`a VMM made a system call that its seccomp filter ${action}`, { vmmPid, ...call });
  }
}

class Watch {
  refused = 0;
  logged = 0;
  last: Pick<ViolationMark, 'syscall' | 'name' | 'address' | 'action'> | null = null;
  atMs = 0;

  mark(): ViolationMark | null {
    if (this.last === null) return null;
    return { count: this.refused + this.logged, ...this.last, atMs: Math.floor(this.atMs) };
  }
}

const named = (syscall: number): { syscall: number; name: string | null } => ({
  syscall,
  name: syscallName(syscall, 'x86_64') ?? null,
});

/** Reads the kernel's records if possible; otherwise only exits of VMMs are evidence. */
export function openViolations(vmm: string, log: Log): VmmViolations {
  const source = openRecords();
  if (typeof source === 'string') log.debug('audit records of VMMs are not available', { reason: source });
  return new VmmViolations({ clock: systemClock, log, vmm, source: typeof source === 'string' ? null : source });
}

/**
 * Opens the kernel's audit records, or returns the reason why they can't be read. Their pids are of the initial
 * namespace, and they are sent only to the initial network namespace; reading needs CAP_AUDIT_READ.
 */
export function openRecords(): RecordSource | string {
  try {
    if (readlinkSync('/proc/self/ns/pid') !== FIRST_PID_NAMESPACE)
      return 'records have pids of the host, not of this container';
    const first = firstNetNamespace();
    if (first !== null && readlinkSync('/proc/self/ns/net') !== first)
      return 'records are sent to the initial network namespace only';
    if (!readFileSync('/proc/sys/kernel/seccomp/actions_logged', 'latin1').includes('kill_process'))
      return 'kernel.seccomp.actions_logged lacks kill_process';
    return new NetlinkSocket(NETLINK.audit, GROUP_READLOG);
  } catch (error) {
    ignore(error, 'returned as the reason');
    return describeError(error);
  }
}

/** `null` if unknown; this process is then assumed to be in it. */
function firstNetNamespace(): string | null {
  return tryOr(null, 'not permitted to inspect process 1', () => readlinkSync('/proc/1/ns/net'));
}
