/**
 * System calls that the filters of our VMMs refused or logged, as the kernel tells: by the audit socket, which has every
 * record (also beside auditd), while the kernel's log has ten in five seconds. Firecracker says itself which call ended
 * it; the kernel tells nothing then, since the filter only sends a signal.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { type Clock, systemClock } from '../base/clock.ts';
import { describeError, errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import type { Log } from '../base/log.ts';
import { Counter } from '../base/metrics.ts';
import { AUDIT_ARCH, syscallName } from '../jail/seccomp/syscalls.ts';
import { parseSeccompRecord, type SeccompRecord } from '../observe/seccomp-record.ts';
import type { ViolationMark } from '../sandbox/ending.ts';
import type { HostViolations } from '../sandbox/parts.ts';
import { NETLINK, NetlinkSocket } from '../sys/netlink-socket.ts';
import type { VmExit } from '../vmm/driver.ts';

/** Between two looks, as long as a VMM runs: what comes meanwhile is kept in the socket. */
const LOOK_GAP_MS = 500;
/** At one look; the rest comes at the next. */
const RECORDS_MAX = 1_000;
/** Of processes that are nobody's yet: a VMM may fall foul of its filter before it is known as one. */
const UNKNOWN_MAX = 64;
/** As long may a start take until its VMM is known; what is older is of another process that had its number. */
const UNKNOWN_MS_MAX = 60_000;
/** The kernel's own thread sends the records: they may come after the end of the process. */
const LATE_MS_MAX = 5_000;
const LATE_GAP_MS = 20;
/** AUDIT_NLGRP_READLOG (linux/audit.h), as a bit. */
const GROUP_READLOG = 1;
/** PROC_PID_INIT_INO (include/linux/proc_ns.h): the namespace whose numbers the records have. */
const FIRST_PID_NAMESPACE = 'pid:[4026531836]';

export interface RecordSource {
  /** Null: nothing is there now. @throws SyscallError `ENOBUFS`: some were lost */
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
  readonly #violations = new Counter({
    name: 'neurovisor_seccomp_violations_total',
    help: 'System calls of VMMs that their filters refused (enforce) or logged (log).',
    unit: null,
    labels: ['vmm', 'mode'],
  });
  readonly #lost = new Counter({
    name: 'neurovisor_seccomp_records_lost_total',
    help: 'Times that the kernel had more records of refused system calls than could be held.',
    unit: null,
  });
  #cancel: (() => void) | null = null;

  /** @param vmm name of the driver @param source null: the kernel tells us nothing */
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
    // There from the start, so that a rate of it can be taken.
    for (const mode of ['enforce', 'log']) this.#violations.add({ vmm: this.#vmm, mode }, 0);
  }

  get metrics(): readonly Counter<string>[] {
    return [this.#violations, this.#lost];
  }

  watch(vmmPid: number): HostViolations {
    const watch = new Watch();
    // While there was no VMM nobody took what came.
    this.#look();
    this.#watched.set(vmmPid, watch);
    const sinceMs = this.#clock.wall() - UNKNOWN_MS_MAX;
    for (const record of this.#unknown.get(vmmPid) ?? [])
      if (record.atMs >= sinceMs) this.#take(watch, vmmPid, record);
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

  async #settle(
    vmmPid: number,
    watch: Watch,
    exit: VmExit | undefined,
  ): Promise<ViolationMark | null> {
    this.#look();
    const isRefused = exit?.signal === 'SIGSYS' || exit?.refusedSyscall !== undefined;
    if (exit?.signal === 'SIGSYS' && this.#source !== null) {
      for (let ms = 0; ms < LATE_MS_MAX && watch.refused === 0; ms += LATE_GAP_MS) {
        await this.#pause(LATE_GAP_MS);
        this.#look();
      }
    }
    this.#watched.delete(vmmPid);
    // The kernel did not say it, or could not be heard: the end says it.
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

  /** Null: some were lost. */
  #receive(): Uint8Array | null | undefined {
    try {
      return this.#source?.receive();
    } catch (error) {
      this.#lost.add({});
      if (errorCode(error) === 'ENOBUFS') return null;
      // It is looked for them by a timer, whose errors are nobody's.
      this.#log.debug('a record of the kernel could not be taken', {
        reason: describeError(error),
      });
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
    // Of another processor, 32-bit calls too, the number means something else.
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
    this.#log.warn(`a VMM made a system call that its filter ${action}`, {
      vmmPid,
      ...call,
    });
  }
}

/** Of one VMM. */
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

/** With what the kernel tells, where it tells us; else with what VMMs and their ends say. */
export function openViolations(vmm: string, log: Log): VmmViolations {
  const source = openRecords();
  if (typeof source === 'string')
    log.debug('refused system calls of VMMs are not heard of', { reason: source });
  return new VmmViolations({
    ...{ clock: systemClock, log, vmm },
    source: typeof source === 'string' ? null : source,
  });
}

/**
 * The kernel's records, from now on.
 * @returns why they can't be had: they have the process ids of the host, and are sent to its first network namespace,
 * for those who may read them (CAP_AUDIT_READ)
 */
export function openRecords(): RecordSource | string {
  try {
    if (readlinkSync('/proc/self/ns/pid') !== FIRST_PID_NAMESPACE)
      return 'the kernel names processes by other numbers than this container';
    const first = firstNetNamespace();
    if (first !== null && readlinkSync('/proc/self/ns/net') !== first)
      return 'the kernel tells them in the first network namespace only';
    if (!readFileSync('/proc/sys/kernel/seccomp/actions_logged', 'latin1').includes('kill_process'))
      return 'the kernel is set not to log them (kernel.seccomp.actions_logged)';
    return new NetlinkSocket(NETLINK.audit, GROUP_READLOG);
  } catch (error) {
    ignore(error, 'told as the reason');
    return describeError(error);
  }
}

/** Null: it can't be seen, so this process is taken to be in it. */
function firstNetNamespace(): string | null {
  try {
    return readlinkSync('/proc/1/ns/net');
  } catch (error) {
    ignore(error, 'the first process has capabilities that this one lacks');
    return null;
  }
}
