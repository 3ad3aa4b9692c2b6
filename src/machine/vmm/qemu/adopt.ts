/**
 * Takes over a QEMU whose process was killed:
 *
 *     record ─► pidfd ─► identity ─► its descriptors of our sockets ─► QMP again ─► old devices out, new ones in
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { CleanupStack } from '../../../base/cleanup.ts';
import type { Clock } from '../../../base/clock.ts';
import { describeError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { Log } from '../../../base/log.ts';
import { hasDiskLimits } from '../../../base/request/disk-limits.ts';
import { MIB } from '../../../base/units.ts';
import { closeFd } from '../../../sys/fd.ts';
import { signalPidFd } from '../../../sys/process-memory.ts';
import { isRunning } from '../../../sys/process-start.ts';
import type { Vm, VmExit, VmSpec } from '../driver.ts';
import { VmmError } from '../errors.ts';
import type { KeptVm } from '../kept.ts';
import { releaseAll } from '../process-vm.ts';
import { ByteTail } from '../tail.ts';
import { QemuBalloon } from './balloon.ts';
import { limitDisks } from './disk-limits.ts';
import { DiskWatch } from './disk-watch.ts';
import { type HeldSockets, type TakenVm, takeFrom } from './held.ts';
import { NicSlot } from './nic.ts';
import { PrivateRam } from './private-ram.ts';
import { CONSOLE_TAIL_BYTES, guestReason, type QemuParts, STDERR_TAIL_BYTES } from './process.ts';
import { QmpClient } from './qmp.ts';
import { QemuVm } from './vm.ts';
import type { VsockSlot } from './vsock-slot.ts';

const SIGKILL = 9;
/** Between two looks at a process that has been killed. */
const END_POLL_MS = 5;
/** States of a VM whose guest ran (QEMU, qapi/run-state.json); saves leave the last ones. */
const USABLE = ['running', 'paused', 'io-error', 'finish-migrate', 'postmigrate', 'save-vm'];

export interface Adopting {
  readonly clock: Clock;
  readonly log: Log;
  readonly freeBytes: (path: string) => Promise<number>;
  readonly makeSlot: (qmp: QmpClient, pid: () => number | null, hasPrivateMemory: boolean) => VsockSlot;
}

/** A process that is not our child. */
class AdoptedProcess implements QemuParts {
  readonly pid: number;
  readonly qmp: QmpClient;
  readonly terminal = null;
  readonly exited: Promise<VmExit>;
  readonly #vmm: KeptVm['vmm'];
  readonly #pidFd: number;
  readonly #console = new ByteTail(CONSOLE_TAIL_BYTES);
  readonly #stderr = new ByteTail(STDERR_TAIL_BYTES);
  #reason: string | undefined;
  #killed = false;
  #hasEnded = false;

  constructor(vmm: KeptVm['vmm'], { pidFd, sockets }: TakenVm, clock: Clock) {
    this.pid = vmm.pid;
    this.#vmm = vmm;
    this.#pidFd = pidFd;
    for (const [socket, tail] of [
      [sockets.stderr, this.#stderr],
      [sockets.serial, this.#console],
    ] as const) {
      socket.on('error', (error) => ignore(error, 'the line broke'));
      socket.on('data', (bytes: Buffer) => tail.push(bytes));
    }
    this.qmp = new QmpClient(sockets.qmp, clock);
    this.qmp.onEvent((event) => {
      this.#reason = guestReason(event) ?? this.#reason;
    });
    this.exited = this.#watch(sockets);
  }

  isAlive(): boolean {
    return !this.#hasEnded && isRunning(this.#vmm);
  }

  consoleTail(): string {
    return this.#console.text();
  }

  get logs(): Vm['logs'] {
    return { console: this.#console, vmm: this.#stderr };
  }

  async kill(): Promise<void> {
    this.#killed = true;
    this.#signal();
    await this.exited;
  }

  /** Its descriptors close when it ends; one that closes its control connection can not be used any more. */
  async #watch(sockets: HeldSockets): Promise<VmExit> {
    await this.qmp.closed;
    while (isRunning(this.#vmm)) {
      this.#signal();
      await sleep(END_POLL_MS);
    }
    this.#hasEnded = true;
    closeFd(this.#pidFd);
    for (const socket of Object.values(sockets)) socket.destroy();
    const log = this.#stderr.text().trim();
    const byGuest = this.#reason !== undefined;
    const cause = byGuest ? 'guest-shutdown' : this.#killed ? 'killed' : 'vmm-crashed';
    return { cause, exitCode: null, signal: null, detail: this.#reason ?? log, log };
  }

  #signal(): void {
    if (this.#hasEnded) return;
    try {
      signalPidFd(this.#pidFd, SIGKILL);
    } catch (error) {
      ignore(error, 'it has ended');
    }
  }
}

/**
 * @param kept its caller has taken `memoryFd` of `spec` from it, and removes its groups once it has ended
 * @throws VmmError; then the VM was ended
 */
export async function adoptQemu(adopting: Adopting, spec: VmSpec, kept: KeptVm, signal?: AbortSignal): Promise<Vm> {
  const { clock, log, freeBytes } = adopting;
  const began = clock.now();
  const taken = takeFrom(kept);
  closeFd(taken.memoryFd);
  const process = new AdoptedProcess(kept.vmm, taken, clock);
  const cleanup = new CleanupStack();
  cleanup.push('QEMU process', () => process.kill());
  const release = (): Promise<void> => releaseAll(cleanup, log, spec.id);
  const stop = (): void => void process.kill();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    const { qmp } = process;
    await qmp.takeOver();
    const ram = privateRamOf(spec);
    cleanup.push('private RAM', () => ram?.close());
    ram?.requireSealed();
    ram?.find(process.pid);
    const slot = adopting.makeSlot(qmp, () => (process.isAlive() ? process.pid : null), ram !== null);
    cleanup.push('vsock device', () => slot.release());
    await continueVm(qmp);
    const nic = new NicSlot(qmp);
    // Before the channel: the hello tells the guest the settings of its card.
    await nic.replace(spec.nic);
    await slot.replace(spec.guestCid);
    const { diskLimits = {} } = spec;
    if (hasDiskLimits(diskLimits)) await limitDisks(qmp, diskLimits);
    const { memoryFd } = spec;
    if (ram !== null && memoryFd === undefined)
      throw new VmmError('vm_spec_invalid', 'the RAM of its saves is missing');
    return new QemuVm({
      id: spec.id,
      channelPath: spec.channelPath,
      timings: { spawnedMs: 0, runningMs: clock.now() - began },
      process,
      slot,
      nic,
      disk: new DiskWatch({ qmp, clock, path: spec.overlayPath, freeBytes }),
      balloon: spec.balloonMib === undefined ? undefined : new QemuBalloon(qmp, spec.memoryMib),
      release,
      snapshotMachine: kept.machine,
      privateMemory:
        ram === null || memoryFd === undefined
          ? null
          : { ram, configuration: Buffer.from(kept.configuration ?? '', 'base64'), memoryFd },
      limitVmm: () => undefined,
    });
  } catch (error) {
    await release();
    throw error;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

function privateRamOf({ snapshot, memoryMib }: VmSpec): PrivateRam | null {
  return snapshot?.memoryPath === undefined ? null : PrivateRam.open(snapshot.memoryPath, memoryMib * MIB);
}

/** A guest releases no device while its VM is stopped. @throws VmmError `vm_gone` for one that never ran */
async function continueVm(qmp: QmpClient): Promise<void> {
  const { status } = (await qmp.execute('query-status')) as { status?: unknown };
  if (!USABLE.includes(`${status}`)) {
    throw new VmmError('vm_gone', 'the VM can not be taken over', {
      cause: `it is in the state ${describeError(status)}`,
    });
  }
  if (status !== 'running') await qmp.cont();
}
