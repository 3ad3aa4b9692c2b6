/**
 * The network card of one VM: QEMU's copy of a TAP (its "netdev"), and the device on it.
 *
 *     getfd (SCM_RIGHTS) ─► netdev_add ─► device_add      device_del ─► DEVICE_DELETED ─► netdev_del
 *
 * The TAP ends with the last copy of its descriptor: at `netdev_del`, or with QEMU.
 */
import { ignore } from '../../base/ignore.ts';
import type { NicHotplug, NicSpec } from '../driver.ts';
import { VmmError } from '../errors.ts';
import type { QmpClient } from './qmp.ts';

/** The guest must release the device; 100 ms are usual. */
const UNPLUG_MS_MAX = 10_000;
/** PCI slot; see the drawing in `args.ts`. */
const SLOT = '6';
/** QMP names of the descriptor, the netdev and the device. */
const FD_NAME = 'nic-tap';
const NETDEV_ID = 'tap';
const DEVICE_ID = 'nic';

export class NicSlot implements NicHotplug {
  readonly #qmp: QmpClient;
  #state: 'absent' | 'withdrawn' | 'plugged' = 'absent';
  /** Whether the guest should have the device: it may release it after our wait for that has timed out. */
  #isWanted = false;
  /** The return of a card that was released late. */
  #late: Promise<void> = Promise.resolve();
  #mac = '';

  constructor(qmp: QmpClient) {
    this.#qmp = qmp;
    qmp.onEvent(({ name, data }) => {
      if (name !== 'DEVICE_DELETED' || data['device'] !== DEVICE_ID) return;
      this.#state = 'withdrawn';
      if (!this.#isWanted) return;
      this.#late = this.#add().catch((error: unknown) =>
        ignore(error, 'the next return tries again, or QEMU is gone'),
      );
    });
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
      // Never vhost: where /dev/vhost-net is missing, QEMU 7.2 aborts and takes the guest with it.
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
    await this.#qmp.execute('netdev_del', { id: NETDEV_ID });
    this.#state = 'absent';
  }

  async withdrawNic(): Promise<void> {
    this.#isWanted = false;
    await this.#late;
    if (this.#state !== 'plugged') return;
    const deleted = this.#qmp.event(
      ({ name, data }) => name === 'DEVICE_DELETED' && data['device'] === DEVICE_ID,
      UNPLUG_MS_MAX,
    );
    await Promise.all([deleted, this.#qmp.execute('device_del', { id: DEVICE_ID })]);
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
      id: DEVICE_ID,
      netdev: NETDEV_ID,
      mac: this.#mac,
      // The link is always up. With a status Linux would drop packets until it has polled it, up to a second.
      status: false,
      // No boot ROM: nothing boots from the network, and a jail does not contain one.
      romfile: '',
      addr: SLOT,
    });
    this.#state = 'plugged';
  }

  /** Undoes a part of a failed plug; only the first failure is reported. */
  async #undo(command: string, args: Readonly<Record<string, unknown>>): Promise<void> {
    try {
      await this.#qmp.execute(command, args);
    } catch (error) {
      ignore(error, 'QEMU did not accept it, or is gone');
    }
  }
}
