/**
 * Rate limits of a VM's disks, in QEMU. A request waits in front of the disk, so writes count even if the host only
 * caches them. The burst is a tenth of a second's worth.
 *
 * The limits belong to the disks' back ends, not to the machine: they can change while the VM runs, and no snapshot
 * contains them.
 */
import type { DiskLimits } from '../../../base/request/disk-limits.ts';
import { VmmError } from '../errors.ts';
import { DISK_NODES, isFurtherNode } from './args.ts';
import type { QmpClient } from './qmp.ts';

/** All disks share one budget. */
const GROUP = 'disks';

/** Replaces the current limits. @throws VmmError */
export async function limitDisks(qmp: QmpClient, limits: DiskLimits): Promise<void> {
  // 0: no limit.
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

/** QEMU's names of the devices on our disks. @throws VmmError `vmm_command_failed` */
function devicesIn(answer: unknown): string[] {
  const blocks: readonly Block[] = Array.isArray(answer) ? answer : [];
  const nodes = blocks.map((block) => block?.inserted?.['node-name']);
  const further = nodes.filter((node) => typeof node === 'string').filter(isFurtherNode);
  return [...DISK_NODES, ...further].map((node) => {
    const found = blocks.find((block) => block?.inserted?.['node-name'] === node)?.qdev;
    if (typeof found === 'string' && found !== '') return found;
    throw new VmmError('vmm_command_failed', 'the disks of the VM can not be limited', {
      cause: `QEMU knows no device of ${node}`,
    });
  });
}
