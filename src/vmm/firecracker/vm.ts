/** A running Firecracker VM: what can be asked of it. */
import { randomUUID } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import type { Readable, Writable } from 'node:stream';
import type { Clock } from '../../base/clock.ts';
import { ignore } from '../../base/ignore.ts';
import type {
  ChannelStats,
  Vm,
  VmExit,
  VmSnapshot,
  VmTimings,
  WholeSnapshotFiles,
} from '../driver.ts';
import { VmmError } from '../errors.ts';
import { STATE_BYTES_MAX, stateDigest } from '../snapshot.ts';
import { FirecrackerApiError } from './api-client.ts';
import {
  type DeviceLimit,
  diskLimitCalls,
  FILES,
  FLUSH_METRICS_CALL,
  FOLDER,
  PAUSE_CALL,
  RESUME_CALL,
  snapshotCall,
} from './config.ts';
import type { MetricsReader } from './metrics.ts';
import type { Place } from './place.ts';
import type { FirecrackerProcess } from './process.ts';
import type { Quirks } from './versions.ts';

const METRICS_MS_MAX = 5_000;

export interface FirecrackerVmOptions {
  readonly id: string;
  readonly channelPath: string;
  readonly timings: VmTimings;
  readonly process: FirecrackerProcess;
  readonly place: Place;
  readonly quirks: Quirks;
  readonly clock: Clock;
  /** Ends the process if need be, and removes all that `start` made. */
  readonly release: () => Promise<void>;
  /** Written into snapshots. */
  readonly machine: string;
  readonly memoryMib: number;
  readonly tracksDirtyPages: boolean;
}

export class FirecrackerVm implements Vm {
  readonly id: string;
  readonly pid: number | null;
  readonly channelPath: string;
  readonly timings: VmTimings;
  readonly exited: Promise<VmExit>;
  readonly terminal: { readonly input: Writable; readonly output: Readable } | null;
  readonly #options: FirecrackerVmOptions;
  readonly #process: FirecrackerProcess;
  /** A resume is safe for the guest's vsock: nothing was paused, or a snapshot was taken since. */
  #isSnapshotTaken = true;
  #gone = false;

  constructor(options: FirecrackerVmOptions) {
    this.id = options.id;
    this.pid = options.process.pid;
    this.channelPath = options.channelPath;
    this.timings = options.timings;
    this.terminal = options.process.terminal;
    this.#options = options;
    this.#process = options.process;
    this.exited = this.#process.exited.then(async (exit) => {
      this.#gone = true;
      await options.release();
      return exit;
    });
  }

  isAlive(): boolean {
    return !this.#gone && this.#process.isAlive();
  }

  consoleTail(): string {
    return this.#process.consoleTail();
  }

  async pause(): Promise<void> {
    this.#requireRunning();
    await this.#process.api.call(PAUSE_CALL);
    this.#isSnapshotTaken = !this.#options.quirks.pauseTakesSnapshot;
  }

  /** On Firecracker 1.16 every connection of the channel is lost by a pause. */
  async resume(): Promise<void> {
    this.#requireRunning();
    if (!this.#isSnapshotTaken) await this.#takeThrowaway();
    await this.#process.api.call(RESUME_CALL);
    this.#isSnapshotTaken = true;
  }

  /**
   * Stops the VM and writes all of it: devices with their identity, and RAM. It stands still until `resume`;
   * its connections are lost. `diff` writes into `memoryPath`, which holds RAM of the snapshot before, and which
   * is of no use after a failure.
   */
  async saveWhole(files: WholeSnapshotFiles, kind: 'full' | 'diff' = 'full'): Promise<VmSnapshot> {
    this.#requireRunning();
    const { machine, memoryMib, tracksDirtyPages } = this.#options;
    if (kind === 'diff' && !tracksDirtyPages) {
      throw new VmmError('vm_unsupported', 'no diff snapshot can be taken of the VM', {
        cause: 'it was not started with the tracking of written pages',
      });
    }
    const { statePath, memoryPath } = files;
    const made: string[] = [];
    try {
      for (const path of kind === 'full' ? [statePath, memoryPath] : [statePath]) {
        await makePrivate(path);
        made.push(path);
      }
      await this.pause();
      await this.#create(kind, files);
      const state = await readState(statePath);
      await checkMemory(memoryPath, memoryMib);
      return { statePath, memoryPath, stateSha256: stateDigest(state), machine };
    } catch (error) {
      for (const path of made) await rm(path, { force: true });
      if (error instanceof VmmError) throw error;
      throw new VmmError('vmm_command_failed', 'no snapshot could be written', { cause: error });
    }
  }

  async setDiskLimit(limit: DeviceLimit): Promise<void> {
    this.#requireRunning();
    for (const call of diskLimitCalls(limit)) await this.#process.api.call(call);
  }

  async setChannelLimits(): Promise<void> {
    this.#requireRunning();
    throw new VmmError('vm_unsupported', "Firecracker's vsock device has no limits");
  }

  async channelStats(): Promise<ChannelStats> {
    return (await this.counters()).channelStats();
  }

  /** Of all devices, as of now. */
  async counters(): Promise<Pick<MetricsReader, 'sum' | 'channelStats'>> {
    this.#requireRunning();
    const { metrics, api } = this.#process;
    const late = Promise.withResolvers<never>();
    const cancel = this.#options.clock.after(METRICS_MS_MAX, () =>
      late.reject(new VmmError('vmm_timeout', 'Firecracker did not write its counters')),
    );
    late.promise.catch((error: unknown) => ignore(error, 'it lost the race'));
    const next = metrics.next();
    try {
      await api.call(FLUSH_METRICS_CALL);
      await Promise.race([next, late.promise]);
    } finally {
      cancel();
    }
    return metrics;
  }

  async kill(): Promise<void> {
    await this.#process.kill();
    await this.exited;
  }

  /** Of a VM that is paused, into files that are there. */
  async #create(kind: 'full' | 'diff', files: WholeSnapshotFiles): Promise<void> {
    const { place } = this.#options;
    try {
      await place.provide(FILES.state, files.statePath, 'write');
      await place.provide(FILES.memory, files.memoryPath, 'write');
      await this.#process.api.call(snapshotCall(kind));
      this.#isSnapshotTaken = true;
    } finally {
      await place.withdraw(FILES.state);
      await place.withdraw(FILES.memory);
    }
  }

  /** Only for what it does to the vsock device; even one that fails does it. */
  async #takeThrowaway(): Promise<void> {
    const name = this.#options.place.path(`${FOLDER}/${randomUUID()}`);
    const files = { statePath: `${name}.s`, memoryPath: `${name}.m` };
    try {
      for (const path of Object.values(files)) await makePrivate(path);
      await this.#create('diff', files);
    } catch (error) {
      const isRefused = error instanceof FirecrackerApiError && error.status !== null;
      if (!isRefused) throw error;
      ignore(error, 'a snapshot that only had to be tried');
    } finally {
      for (const path of Object.values(files)) await rm(path, { force: true });
    }
  }

  #requireRunning(): void {
    if (this.#gone) throw new VmmError('vm_gone', `the VM ${this.id} is gone`);
  }
}

/** Firecracker would make it readable for everybody; what is there keeps its mode. */
async function makePrivate(path: string): Promise<void> {
  await (await open(path, 'wx', 0o600)).close();
}

async function readState(path: string): Promise<Buffer> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  if (size < 1 || size > STATE_BYTES_MAX) throw broken(`its state has ${size} bytes`);
  return await file.readFile();
}

async function checkMemory(path: string, memoryMib: number): Promise<void> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  if (size !== memoryMib * 1024 * 1024) throw broken(`its RAM has ${size} bytes`);
}

function broken(cause: string): VmmError {
  return new VmmError('vmm_command_failed', 'Firecracker did not write a whole snapshot', {
    cause,
  });
}
