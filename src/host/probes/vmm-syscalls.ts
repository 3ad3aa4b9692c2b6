/**
 * Syscalls of VMMs, counted by call. Off unless requested (NEUROVISOR_PROBES): counting slows down every syscall of the
 * host.
 */
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import { Counter, type Metric } from '../../base/metrics.ts';
import type { CallCounts, SyscallCounts } from '../../machine/observe/syscalls.ts';
import { OpenedOnce } from './opened-once.ts';

type Counts = Pick<SyscallCounts, 'watch' | 'counts' | 'forget'> & Disposable;

export interface VmmSyscallsParts {
  /** `null` if disabled. @throws ObserveError when counting is not available */
  readonly open: (() => Promise<Counts>) | null;
  /** Returns undefined for an unknown number. */
  nameOf(number: number): string | undefined;
  readonly log: Log;
}

/** Counts by syscall name. */
export type NamedCalls = Readonly<Record<string, number>>;

export class VmmSyscalls {
  readonly #parts: VmmSyscallsParts;
  /** Counts of each process at the last read. */
  readonly #seen = new Map<number, CallCounts>();
  readonly #total = new Counter('neurovisor_vmm_syscalls_total', 'System calls of VMMs, if counted.', ['call']);
  readonly #counts: OpenedOnce<Counts>;

  constructor(parts: VmmSyscallsParts) {
    this.#parts = parts;
    this.#counts = new OpenedOnce({
      open: parts.open,
      opened: () => {
        for (const pid of this.#seen.keys()) this.#count(pid);
      },
      failed: (error) => {
        const fields = { reason: describeError(error) };
        parts.log.warn('system calls of VMMs are not counted', fields);
      },
    });
    this.#total.add({ call: NO_CALL }, 0);
  }

  get isOpen(): boolean {
    return this.#counts.value !== undefined;
  }

  /** Resolves when counting has started or failed. Idempotent; never rejects. */
  start(): Promise<void> {
    return this.#counts.start();
  }

  /** Call when a VMM has started. */
  watch(pid: number): void {
    if (this.#parts.open === null) return;
    this.#seen.set(pid, new Map());
    this.#count(pid);
  }

  /** Call when a VMM has ended. */
  end(pid: number): void {
    this.#collect(pid);
    this.#seen.delete(pid);
    this.#counts.value?.forget(pid);
  }

  /** Counts of one VMM, most frequent first; undefined if not counted. */
  of(pid: number): NamedCalls | undefined {
    const counts = this.#counts.value?.counts(pid);
    if (counts === undefined) return undefined;
    const named = new Map<string, number>();
    for (const [number, count] of counts) {
      const name = this.#nameOf(number);
      named.set(name, (named.get(name) ?? 0) + count);
    }
    return Object.fromEntries([...named].toSorted(([, a], [, b]) => b - a));
  }

  metrics(): readonly Metric[] {
    const { name, help, unit, labels, type } = this.#total;
    const samples = (): ReturnType<Metric['samples']> => {
      for (const pid of this.#seen.keys()) this.#collect(pid);
      return this.#total.samples();
    };
    return [{ name, help, unit, labels, type, samples }];
  }

  close(): void {
    this.#counts[Symbol.dispose]();
  }

  #count(pid: number): void {
    try {
      this.#counts.value?.watch(pid);
    } catch (error) {
      const fields = { pid, reason: describeError(error) };
      this.#parts.log.warn('system calls of a VMM are not counted', fields);
    }
  }

  #collect(pid: number): void {
    const counts = this.#counts.value?.counts(pid);
    const before = this.#seen.get(pid);
    if (counts === undefined || before === undefined) return;
    for (const [number, count] of counts)
      this.#total.add({ call: this.#nameOf(number) }, count - (before.get(number) ?? 0));
    this.#seen.set(pid, counts);
  }

  #nameOf(number: number | null): string {
    return (number === null ? undefined : this.#parts.nameOf(number)) ?? NO_CALL;
  }
}

const NO_CALL = 'unknown';
