/**
 * Holds the disks of a VM to a rate, in QEMU: a request waits in front of the disk, so what the guest writes is
 * counted also where the host only takes it into its memory. A tenth of a second's worth may come at once.
 *
 * Not part of the machine: it is set at the disks' back ends, changes while the VM runs, and no state has it.
 */
import type { DiskLimits } from '../../base/disk-limits.ts';
import { VmmError } from '../errors.ts';
import { DISK_NODES } from './args.ts';
import type { QmpClient } from './qmp.ts';

/** Both disks have one budget. */
const GROUP = 'disks';

/** Replaces what there is. @throws VmmError */
export async function limitDisks(qmp: QmpClient, limits: DiskLimits): Promise<void> {
  // 0: none.
  const { bytesPerSecond: bps = 0, opsPerSecond: iops = 0 } = limits;
  const both = { bps, bps_rd: 0, bps_wr: 0, iops, iops_rd: 0, iops_wr: 0 };
  for (const id of devicesIn(await qmp.execute('query-block'))) {
    await qmp.execute('block_set_io_throttle', { id, group: GROUP, ...both });
  }
}

interface Block {
  readonly qdev?: unknown;
  readonly inserted?: { readonly 'node-name'?: unknown };
}

/** The devices on our disks, as QEMU names them. @throws VmmError `vmm_command_failed` */
function devicesIn(answer: unknown): string[] {
  const blocks: readonly Block[] = Array.isArray(answer) ? answer : [];
  return DISK_NODES.map((node) => {
    const found = blocks.find((block) => block?.inserted?.['node-name'] === node)?.qdev;
    if (typeof found === 'string' && found !== '') return found;
    throw new VmmError('vmm_command_failed', 'the disks of the VM can not be limited', {
      cause: `QEMU knows no device of ${node}`,
    });
  });
}
