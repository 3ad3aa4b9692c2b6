/** What the VMs of all drivers have in common: a process, and what ends with it. */
import type { Readable, Writable } from 'node:stream';
import type { CleanupStack } from '../../base/cleanup.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { Balloon, Vm, VmExit, VmTimings } from './driver.ts';
import { VmmError } from './errors.ts';

export interface ProcessVmOptions<Process> {
  readonly id: string;
  readonly channelPath: string;
  readonly timings: VmTimings;
  readonly process: Process;
  readonly balloon: Balloon | undefined;
  /** Ends the process if necessary, and releases everything that `start` created. */
  readonly release: () => Promise<void>;
}

export class ProcessVm<
  Process extends Pick<Vm, 'pid' | 'terminal' | 'exited' | 'isAlive' | 'logs' | 'consoleTail'> & {
    kill(): Promise<void>;
  },
> {
  readonly id: string;
  readonly pid: number | null;
  readonly channelPath: string;
  readonly timings: VmTimings;
  readonly exited: Promise<VmExit>;
  readonly terminal: { readonly input: Writable; readonly output: Readable } | null;
  readonly balloon?: Balloon;
  readonly #process: Process;
  #gone = false;

  /** @param explain the exit of the VM, once everything is released */
  constructor(options: ProcessVmOptions<Process>, explain: (exit: VmExit) => VmExit) {
    const { process, balloon, release } = options;
    this.id = options.id;
    this.pid = process.pid;
    this.channelPath = options.channelPath;
    this.timings = options.timings;
    this.terminal = process.terminal;
    if (balloon !== undefined) this.balloon = balloon;
    this.#process = process;
    this.exited = process.exited.then(async (exit) => {
      this.#gone = true;
      await release();
      return explain(exit);
    });
  }

  isAlive(): boolean {
    return !this.#gone && this.#process.isAlive();
  }

  get logs(): Vm['logs'] {
    return this.#process.logs;
  }

  consoleTail(): string {
    return this.#process.consoleTail();
  }

  async kill(): Promise<void> {
    await this.#process.kill();
    await this.exited;
  }

  /** @throws VmmError `vm_gone` */
  protected requireRunning(): void {
    if (this.#gone) throw new VmmError('vm_gone', `the VM ${this.id} is gone`);
  }
}

export function cannotSave(cause: string): VmmError {
  return new VmmError('vm_unsupported', 'could not take a snapshot of the VM', { cause });
}

/** Releases what `start` created. Never rejects. */
export async function releaseAll(cleanup: CleanupStack, log: Log, id: string): Promise<void> {
  try {
    await cleanup.run();
  } catch (error) {
    log.error('could not release all resources of a VM', { vm: id, error: describeError(error) });
  }
}
