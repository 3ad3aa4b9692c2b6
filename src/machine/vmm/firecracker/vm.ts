/** A running Firecracker VM. */
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type {
  ChannelLimits,
  ChannelStats,
  DiskLimits,
  Vm,
  VmDisk,
  VmSnapshot,
  VsockHotplug,
  WholeSnapshotFiles,
} from '../driver.ts';
import { VmmError } from '../errors.ts';
import { cannotSave, ProcessVm, type ProcessVmOptions } from '../process-vm.ts';
import type { ChannelRelay } from './channel/relay.ts';
import { diskLimitCalls, FLUSH_METRICS_CALL } from './config.ts';
import type { JailSpec } from './jail/jailer.ts';
import type { MetricsReader } from './process/metrics.ts';
import type { VmmProcess } from './process/process.ts';
import type { Snapshots } from './snapshot/snapshots.ts';

const METRICS_MS_MAX = 5_000;

export interface FirecrackerVmOptions extends ProcessVmOptions<VmmProcess> {
  readonly relay: ChannelRelay;
  readonly snapshots: Snapshots;
  readonly disks: readonly VmDisk[];
  readonly clock: Clock;
  /** Limits the disk I/O of the process, in addition to the guest's. Default: unlimited. */
  readonly limitVmm?: JailSpec['limitDisks'] | undefined;
}

/**
 * A Firecracker VM. Its vsock device can't be unplugged, and need not be: a snapshot resets it, and a clone has its own
 * socket. So "unplugged" only means that the host can't reach it.
 */
export class FirecrackerVm extends ProcessVm<VmmProcess> implements Vm, VsockHotplug {
  readonly vsockHotplug = this;
  readonly #options: FirecrackerVmOptions;
  #isPlugged = true;

  constructor(options: FirecrackerVmOptions) {
    const { relay, process } = options;
    super(options, (exit) =>
      relay.failure === undefined
        ? exit
        : { cause: 'vmm-crashed', exitCode: null, signal: null, detail: describeError(relay.failure) },
    );
    this.#options = options;
    void relay.broken.then(() => process.kill());
  }

  async pause(): Promise<void> {
    this.requireRunning();
    await this.#options.snapshots.pause();
  }

  /** On Firecracker 1.16 a pause loses every connection of the channel. */
  async resume(): Promise<void> {
    this.requireRunning();
    await this.#options.snapshots.resume();
  }

  async saveWhole(files: WholeSnapshotFiles, kind: 'full' | 'diff' = 'full'): Promise<VmSnapshot> {
    this.requireRunning();
    return this.#options.snapshots.saveWhole(files, kind);
  }

  async saveState(statePath: string): Promise<VmSnapshot> {
    this.requireRunning();
    if (this.#isPlugged) throw cannotSave('its vsock device is plugged');
    return this.#options.snapshots.saveState(statePath);
  }

  /** The guest keeps its context id, since the host identifies it by its socket. */
  async plugVsock(_guestCid: number): Promise<void> {
    this.requireRunning();
    if (this.#isPlugged) {
      throw new VmmError('vm_unsupported', 'the vsock device is already plugged');
    }
    await this.#options.relay.connect();
    this.#isPlugged = true;
  }

  async unplugVsock(): Promise<void> {
    this.#requirePlugged();
    await this.#options.relay.disconnect();
    this.#isPlugged = false;
  }

  async setDiskLimits(limits: DiskLimits): Promise<void> {
    this.requireRunning();
    for (const call of diskLimitCalls(limits, this.#options.disks)) await this.#options.process.api.call(call);
    this.#options.limitVmm?.(limits);
  }

  async setChannelLimits(limits: ChannelLimits): Promise<void> {
    this.requireRunning();
    await this.#options.relay.setLimits(limits);
  }

  async channelStats(): Promise<ChannelStats> {
    this.#requirePlugged();
    return this.#options.relay.stats();
  }

  async counters(): Promise<Pick<MetricsReader, 'sum'>> {
    this.requireRunning();
    const { metrics, api } = this.#options.process;
    const late = Promise.withResolvers<never>();
    const cancel = this.#options.clock.after(METRICS_MS_MAX, () =>
      late.reject(new VmmError('vmm_timeout', 'Firecracker did not write its counters in time')),
    );
    late.promise.catch((error: unknown) => ignore(error, 'the counters came in time'));
    const next = metrics.next();
    try {
      await api.call(FLUSH_METRICS_CALL);
      await Promise.race([next, late.promise]);
    } finally {
      cancel();
    }
    return metrics;
  }

  #requirePlugged(): void {
    this.requireRunning();
    if (!this.#isPlugged) throw new VmmError('vm_unsupported', 'the vsock device is not plugged');
  }
}
