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
import type { QmpEvent } from './qmp.ts';

/** A guest must release the device; a busy or hostile one may be slow. */
export const UNPLUG_MS_MAX = 10_000;
/** From the first event to the second. */
export const FREED_MS_MAX = 5_000;

/** The guest has released the device: no state of a VM contains it. */
export function isReleased({ name, data }: QmpEvent, id: string): boolean {
  if (name !== 'DEVICE_DELETED') return false;
  return data['device'] === id || data['path'] === `/machine/peripheral/${id}/virtio-backend`;
}

/** Its backend can be removed. */
export function isFreed({ name, data }: QmpEvent, id: string): boolean {
  return name === 'DEVICE_DELETED' && data['device'] === id;
}
