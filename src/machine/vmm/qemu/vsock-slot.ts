/**
 * The vsock device of one VM: the connection to its backend (QEMU's "chardev"), and the device on it.
 *
 *     getfd (SCM_RIGHTS) ─► chardev-add ─► device_add      device_del ─► released ─► freed ─► chardev-remove
 */
import { awaitOr, ignore } from '../../../base/ignore.ts';
import { closeFd, type FileIdentity } from '../../../sys/fd.ts';
import { openProcessMemory } from '../../../sys/process-memory.ts';
import { connectUnix } from '../../../sys/socket.ts';
import type { AttachVsock, VsockAttachment } from '../attach-vsock.ts';
import type { ChannelLimits, ChannelStats, VsockHotplug } from '../driver.ts';
import { VmmError } from '../errors.ts';
import type { QmpClient } from './qmp.ts';
import { FREED_MS_MAX, isFreed, RELEASED_MS_MAX, releaseDevice } from './unplug.ts';

/** PCI slot of the vsock device; see the drawing in `args.ts`. */
const VSOCK_SLOT = '5';
/** QMP name of the descriptor. */
const SOCKET_NAME = 'vsock';

/** @throws VmmError */
function openMemory(pid: number | null): number {
  if (pid === null) throw new VmmError('vmm_command_failed', 'QEMU ended before its memory was opened');
  try {
    return openProcessMemory(pid);
  } catch (cause) {
    throw new VmmError('vmm_command_failed', "QEMU's memory can not be opened", {
      cause,
      remedy: 'allow it (CAP_SYS_PTRACE, kernel.yama.ptrace_scope), or set NEUROVISOR_MEMORY_SHARING=copy',
    });
  }
}

/** Absent, or plugged with its own backend. */
export class VsockSlot implements VsockHotplug {
  readonly #qmp: QmpClient;
  readonly #attachVsock: AttachVsock;
  readonly #place: { readonly id: string; readonly vhostSocketPath: string; readonly channelPath: string };
  readonly #memory: FileIdentity | undefined;
  readonly #copiedProcess: (() => number | null) | undefined;
  #limits: ChannelLimits | undefined;
  #attachment: Promise<VsockAttachment> | undefined;
  #plugs = 0;

  constructor(options: {
    qmp: QmpClient;
    attachVsock: AttachVsock;
    place: { id: string; vhostSocketPath: string; channelPath: string };
    limits: ChannelLimits | undefined;
    memory: FileIdentity | undefined;
    /** Pid of the VMM: set if the device copies its memory, instead of mapping it. */
    copiedProcess: (() => number | null) | undefined;
  }) {
    this.#qmp = options.qmp;
    this.#attachVsock = options.attachVsock;
    this.#place = options.place;
    this.#limits = options.limits;
    this.#memory = options.memory;
    this.#copiedProcess = options.copiedProcess;
  }

  /** Creates only the backend, so that it is ready when QEMU is. */
  attach(guestCid: number): Promise<VsockAttachment> {
    this.#attachment ??= this.#attachVsock({
      ...this.#place,
      guestCid,
      ...(this.#limits === undefined ? {} : { limits: this.#limits }),
      ...(this.#memory === undefined ? {} : { memory: this.#memory }),
      copiesMemory: this.#copiedProcess !== undefined,
    });
    return this.#attachment;
  }

  async plugVsock(guestCid: number): Promise<void> {
    if (this.#attachment !== undefined) {
      throw new VmmError('vm_unsupported', 'the vsock device is already plugged');
    }
    try {
      await this.ready(guestCid);
      await this.plugReady();
    } catch (error) {
      await this.release();
      throw error;
    }
  }

  /** Everything but the plug, also while a state is loaded; the caller releases on failure. */
  async ready(guestCid: number): Promise<void> {
    const attachment = await this.attach(guestCid);
    if (this.#copiedProcess !== undefined) attachment.setProcessMemory(openMemory(this.#copiedProcess()));
    const addr = { type: 'fd', data: { str: SOCKET_NAME } };
    const backend = { type: 'socket', data: { addr, server: false } };
    await Promise.all([this.#passSocket(), this.#qmp.execute('chardev-add', { id: this.#qemuId, backend })]);
  }

  /** Plugs what `ready` has prepared. */
  async plugReady(): Promise<void> {
    await this.#qmp.execute('device_add', {
      driver: 'vhost-user-vsock-pci',
      id: this.#qemuId,
      chardev: this.#qemuId,
      addr: VSOCK_SLOT,
    });
  }

  /** Passes a connected socket: QEMU may not see the path. */
  async #passSocket(): Promise<void> {
    const socket = connectUnix(this.#place.vhostSocketPath);
    if (socket < 0) {
      const cause = `errno ${-socket} at ${this.#place.vhostSocketPath}`;
      throw new VmmError('vmm_command_failed', 'the vsock device does not answer', { cause });
    }
    try {
      await this.#qmp.passFd(SOCKET_NAME, socket);
    } finally {
      closeFd(socket);
    }
  }

  async unplugVsock(): Promise<void> {
    await this.#plugged();
    await this.#unplug(this.#qemuId);
    this.#plugs += 1;
    await this.release();
  }

  async #unplug(id: string): Promise<void> {
    this.#qmp
      .event((event) => isFreed(event, id), RELEASED_MS_MAX + FREED_MS_MAX)
      .then(() => this.#qmp.execute('chardev-remove', { id }))
      .catch((error: unknown) => ignore(error, 'the unplug has failed, or QEMU is gone'));
    await releaseDevice(this.#qmp, id);
  }

  /**
   * For a VM that was taken over: replaces the devices of the process before, whose backend is gone, and what it left of
   * an unplug. The VM must be running.
   * @throws VmmError
   */
  async replace(guestCid: number): Promise<void> {
    const devices = await this.#leftIn('qom-list', 'name', { path: '/machine/peripheral' });
    const chardevs = await this.#leftIn('query-chardev', 'label');
    this.#plugs = 1 + Math.max(-1, ...[...devices, ...chardevs]);
    for (const plug of devices) await this.#unplug(`vsock-${plug}`);
    for (const plug of chardevs) {
      if (devices.includes(plug)) continue;
      const id = `vsock-${plug}`;
      await awaitOr(undefined, 'its device is about to be freed', () => this.#qmp.execute('chardev-remove', { id }));
    }
    await this.plugVsock(guestCid);
  }

  /** Numbers of plugs in a list of QEMU's. */
  async #leftIn(command: string, key: 'name' | 'label', args?: Readonly<Record<string, unknown>>): Promise<number[]> {
    const answer = await this.#qmp.execute(command, args);
    const list = Array.isArray(answer) ? (answer as readonly Readonly<Record<string, unknown>>[]) : [];
    return list.flatMap((one) => {
      const plug = /^vsock-(\d{1,9})$/.exec(`${one[key]}`)?.[1];
      return plug === undefined ? [] : [Number(plug)];
    });
  }

  /** QMP name of the device and of the connection to its backend: QEMU may not yet have freed the previous ones. */
  get #qemuId(): string {
    return `vsock-${this.#plugs}`;
  }

  get isPlugged(): boolean {
    return this.#attachment !== undefined;
  }

  async setLimits(limits: ChannelLimits): Promise<void> {
    const attachment = await this.#plugged();
    await this.#ask('set the limits of', () => attachment.setLimits(limits));
    this.#limits = limits;
  }

  async stats(): Promise<ChannelStats> {
    const attachment = await this.#plugged();
    return this.#ask('read the counters of', () => attachment.stats());
  }

  /** Ends the backend, plugged or not. Idempotent. */
  async release(): Promise<void> {
    const attachment = this.#attachment;
    this.#attachment = undefined;
    await (await attachment)?.detach();
  }

  async #ask<T>(what: string, run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      throw new VmmError('vmm_command_failed', `could not ${what} the channel`, { cause: error });
    }
  }

  #plugged(): Promise<VsockAttachment> {
    if (this.#attachment === undefined) {
      throw new VmmError('vm_unsupported', 'the vsock device is not plugged');
    }
    return this.#attachment;
  }
}
