/**
 * The events of a device that is removed. QEMU emits DEVICE_DELETED for each object that it frees, first for the virtio
 * part inside a PCI device, then for the device, and it frees them in batches (`call_rcu_thread` in `util/rcu.c`), so the
 * second follows up to 50 ms after the first:
 *
 *     device_del ─► the guest ejects: unrealized ─► DEVICE_DELETED …/virtio-backend ─► DEVICE_DELETED id
 *                                                   the guest has no device            what it used can be removed
 *
 * Both come under QEMU's lock, which the eject holds until the whole device is unrealized. Until the second event the id is
 * taken, so each plug has an id of its own.
 */
import type { QmpClient, QmpEvent } from './qmp.ts';

/** A guest must release the device; a busy or hostile one may be slow. */
export const RELEASED_MS_MAX = 10_000;
/** From the first event to the second. */
export const FREED_MS_MAX = 5_000;

/** Resolves when the guest has released the device. @throws VmmError as `QmpClient` */
export async function releaseDevice(qmp: QmpClient, id: string): Promise<void> {
  const released = qmp.event((event) => isReleased(event, id), RELEASED_MS_MAX);
  await Promise.all([released, qmp.execute('device_del', { id })]);
}

/** After this, no state of a VM contains the device. */
export function isReleased(event: QmpEvent, id: string): boolean {
  const isPart = event.name === 'DEVICE_DELETED' && event.data['path'] === `/machine/peripheral/${id}/virtio-backend`;
  return isPart || isFreed(event, id);
}

/** After this, the device's resources can be removed. */
export function isFreed({ name, data }: QmpEvent, id: string): boolean {
  return name === 'DEVICE_DELETED' && data['device'] === id;
}
