/**
 * Plugs the volumes of a VM: QEMU gets each as a descriptor, so a jail need not show the file.
 *
 *     add-fd (SCM_RIGHTS) ─► blockdev-add ─► device_add
 *
 * Before the state of a VM that had them is loaded, since they are part of it; otherwise after it, and the guest sees new
 * disks when it runs.
 */
import type { VmSpec, VmVolume } from '../driver.ts';
import { readSnapshot } from '../snapshot.ts';
import type { QmpClient } from './qmp.ts';

/** PCI slot of the first one; see the drawing in `args.ts`. */
const FIRST_SLOT = 16;

/** Volumes that are plugged before or after a state is loaded. */
export interface PluggedVolumes {
  readonly before: readonly VmVolume[];
  readonly after: readonly VmVolume[];
}

/**
 * The state that a VM starts from; null: it boots. One that continues has its volumes, a clone gets them.
 * @param machine with the volumes; `bare`: without
 * @throws VmmError `snapshot_refused`
 */
export async function savedState(
  { snapshot, volumes = [] }: VmSpec,
  machine: string,
  bare: () => string,
): Promise<{ readonly state: Buffer | null; readonly volumes: PluggedVolumes }> {
  if (snapshot === undefined) return { state: null, volumes: { before: [], after: volumes } };
  const hasThem = snapshot.machine === machine;
  const state = await readSnapshot(snapshot, hasThem ? machine : bare());
  return { state, volumes: hasThem ? { before: volumes, after: [] } : { before: [], after: volumes } };
}

/** @throws VmmError as `QmpClient.execute` */
export async function plugVolumes(qmp: QmpClient, volumes: readonly VmVolume[]): Promise<void> {
  for (const [index, { fd, access }] of volumes.entries()) {
    const name = `volume${index}`;
    // Never released: QEMU opens the path again when it changes its permissions.
    const { path } = await qmp.addFd(fd);
    const isReadOnly = access === 'read';
    const common = { 'read-only': isReadOnly, discard: 'unmap' };
    const file = { driver: 'file', filename: path, 'auto-read-only': false, ...common };
    await qmp.execute('blockdev-add', { 'node-name': name, driver: 'raw', ...common, file });
    await qmp.execute('device_add', {
      driver: 'virtio-blk-pci',
      id: name,
      drive: name,
      serial: name,
      addr: (FIRST_SLOT + index).toString(16),
      romfile: '',
    });
  }
}
