/**
 * The network card of one VM: QEMU's copy of a TAP (its "netdev"), and the device on it.
 *
 *     getfd (SCM_RIGHTS) ─► netdev_add ─► device_add      device_del ─► released ─► freed ─► netdev_del
 *
 * The TAP ends with the last copy of its descriptor: at `netdev_del`, or with QEMU.
 */
import { awaitOr, ignore } from '../../../base/ignore.ts';
import type { NicHotplug, NicSpec } from '../driver.ts';
import { VmmError } from '../errors.ts';
import type { QmpClient } from './qmp.ts';
import { FREED_MS_MAX, isFreed, isReleased, RELEASED_MS_MAX, releaseDevice } from './unplug.ts';

/** PCI slot; see the drawing in `args.ts`. */
const SLOT = '6';
/** QMP names of the descriptor and the netdev. */
const FD_NAME = 'nic-tap';
const NETDEV_ID = 'tap';

export class NicSlot implements NicHotplug {
  readonly #qmp: QmpClient;
  #state: 'absent' | 'withdrawn' | 'plugged' = 'absent';
  /** Whether the guest should have the device: it may release it after our wait for that has timed out. */
  #isWanted = false;
  /** The return of a card that was released late. */
  #late: Promise<void> = Promise.resolve();
  #plugs = 0;
  /** Resolves when QEMU has freed the last device. */
  #freed: Promise<unknown> = Promise.resolve();
  #mac = '';

  constructor(qmp: QmpClient) {
    this.#qmp = qmp;
    qmp.onEvent((event) => {
      const id = this.#qemuId;
      if (this.#state !== 'plugged' || !isReleased(event, id)) return;
      this.#state = 'withdrawn';
      this.#plugs += 1;
      this.#freed = isFreed(event, id) ? Promise.resolve() : qmp.event((next) => isFreed(next, id), FREED_MS_MAX);
      this.#freed.catch((error: unknown) => ignore(error, 'an unplug reports it'));
      if (!this.#isWanted) return;
      // A guest may eject its card at any time: QEMU's pace bounds how often it gets another.
      this.#late = this.#freed
        .then(() => this.#add())
        .catch((error: unknown) => ignore(error, 'the next return tries again, or QEMU is gone'));
    });
  }

  /** QMP name of the device: QEMU may not yet have freed the previous one. */
  get #qemuId(): string {
    return `nic-${this.#plugs}`;
  }

  get isPlugged(): boolean {
    return this.#state === 'plugged';
  }

  async plugNic({ tapFd, mac }: NicSpec): Promise<void> {
    if (this.#state !== 'absent') {
      throw new VmmError('vm_unsupported', 'the VM already has a network card');
    }
    await this.#qmp.passFd(FD_NAME, tapFd);
    try {
      // Never vhost: if /dev/vhost-net is missing, QEMU 7.2 aborts and takes the guest with it.
      const backend = { type: 'tap', id: NETDEV_ID, fd: FD_NAME, vhost: false };
      await this.#qmp.execute('netdev_add', backend);
    } catch (error) {
      await this.#undo('closefd', { fdname: FD_NAME });
      throw error;
    }
    this.#state = 'withdrawn';
    this.#mac = mac;
    try {
      await this.returnNic();
    } catch (error) {
      await this.#undo('netdev_del', { id: NETDEV_ID });
      this.#state = 'absent';
      this.#isWanted = false;
      throw error;
    }
  }

  async unplugNic(): Promise<void> {
    await this.withdrawNic();
    if (this.#state !== 'withdrawn') return;
    await this.#freed;
    await this.#qmp.execute('netdev_del', { id: NETDEV_ID });
    this.#state = 'absent';
  }

  /**
   * For a VM that was taken over: removes the card of the process before, whose TAP has ended, and plugs `nic`. The VM
   * must be running.
   * @throws VmmError; `vm_gone`: the guest does not release the card
   */
  async replace(nic: NicSpec | undefined): Promise<void> {
    const left = await this.#left();
    this.#plugs = 1 + Math.max(-1, ...left);
    for (const plug of left) await this.#removeLeft(`nic-${plug}`);
    // A save or an unplug may have been under way.
    await this.#undo('netdev_del', { id: NETDEV_ID });
    await this.#undo('closefd', { fdname: FD_NAME });
    if (nic !== undefined) await this.plugNic(nic);
  }

  /** Numbers of the plugs of the process before. */
  async #left(): Promise<number[]> {
    const answer = await this.#qmp.execute('qom-list', { path: '/machine/peripheral' });
    const list = Array.isArray(answer) ? (answer as readonly { readonly name?: unknown }[]) : [];
    return list.flatMap(({ name }) => {
      const plug = /^nic-(\d{1,9})$/.exec(`${name}`)?.[1];
      return plug === undefined ? [] : [Number(plug)];
    });
  }

  async #removeLeft(id: string): Promise<void> {
    const freed = this.#qmp.event((event) => isFreed(event, id), RELEASED_MS_MAX + FREED_MS_MAX);
    try {
      await Promise.all([freed, releaseDevice(this.#qmp, id)]);
    } catch (cause) {
      throw new VmmError('vm_gone', 'the guest does not release its old network card', { cause });
    }
  }

  async withdrawNic(): Promise<void> {
    this.#isWanted = false;
    await this.#late;
    if (this.#state !== 'plugged') return;
    await releaseDevice(this.#qmp, this.#qemuId);
  }

  async returnNic(): Promise<void> {
    this.#isWanted = true;
    await this.#late;
    await this.#add();
  }

  async #add(): Promise<void> {
    if (this.#state !== 'withdrawn') return;
    await this.#qmp.execute('device_add', {
      driver: 'virtio-net-pci',
      id: this.#qemuId,
      netdev: NETDEV_ID,
      mac: this.#mac,
      // The link is always up. With a status, Linux would drop packets until it has polled it, up to a second.
      status: false,
      // No boot ROM: nothing boots from the network, and a jail does not contain one.
      romfile: '',
      addr: SLOT,
    });
    this.#state = 'plugged';
  }

  /** Undoes a part of a failed plug; only the first failure is reported. */
  async #undo(command: string, args: Readonly<Record<string, unknown>>): Promise<void> {
    await awaitOr(undefined, 'QEMU did not accept it, or is gone', () => this.#qmp.execute(command, args));
  }
}
