/**
 * The configuration of a VM as calls of Firecracker's API; pure.
 *
 * Every path is a fixed name relative to the process' directory (`place.ts`), in a jail or not. So no path contains a
 * caller's text, and a snapshot, which contains these paths, can be loaded many times: each clone finds its own files
 * under the same names. The machine:
 *
 *     virtio-mmio ── (balloon) ── block root, read-only at the device ── block overlay ── (further blocks)
 *                 ── (net) ── vsock ── entropy
 *
 * PCI is never enabled, and there is no metadata service (R-NET-10).
 */
import type { DiskLimits } from '../../../base/request/disk-limits.ts';
import type { BucketLimit } from '../../../base/token-bucket.ts';
import { KIB } from '../../../base/units.ts';
import type { VmDisk } from '../driver.ts';
import type { ApiCall } from './api-client.ts';

/** Names in the process's directory; the channel's own name is the last part of `channelPath`. */
export const FILES = {
  api: 'fc/s/a',
  log: 'fc/log',
  metrics: 'fc/metrics',
  input: 'fc/input',
  kernel: 'fc/kernel',
  root: 'fc/root',
  overlay: 'fc/overlay',
  filter: 'fc/filter',
  /** Devices and RAM of a snapshot, to write or load. */
  state: 'fc/state',
  memory: 'fc/memory',
} as const;
export const furtherDisk = (index: number): string => `fc/disk${index}`;
export const FOLDER = 'fc';
/** Directory where the process creates sockets; in a jail it can't change other names in `fc`. */
export const SOCKETS = 'fc/s';
/** Descriptor of the owner's memory in a process that is not jailed. */
export const MEMORY_FD = 3;

const ROOT_ID = 'root';
const OVERLAY_ID = 'overlay';
const furtherId = (index: number): string => `disk${index}`;
const NIC_ID = 'eth0';
/** Linux's default, BLK_DEF_MAX_SECTORS_CAP: `max_sectors_kb` of a guest's disks. */
export const DISK_REQUEST_BYTES_MAX = 1280 * KIB;
/** Firecracker's own limit. */
export const CPUS_MAX = 32;
/** Writing RAM takes about 1.5 ms per MiB. */
const SNAPSHOT_MS_MAX = 120_000;

/** Bytes and operations per second; omitted: unlimited. */
interface DeviceLimit {
  readonly bandwidth?: BucketLimit;
  readonly ops?: BucketLimit;
}

export interface DeviceLimits {
  readonly disk?: DeviceLimit;
  readonly nicToGuest?: DeviceLimit;
  readonly nicFromGuest?: DeviceLimit;
  readonly entropy?: DeviceLimit;
}

export interface NicPlan {
  readonly tapName: string;
  readonly mac: string;
}

interface BootPlan {
  readonly cpus: number;
  readonly memoryMib: number;
  readonly bootArgs: readonly string[];
  readonly guestCid: number;
  /** The channel's socket, relative. */
  readonly channelName: string;
  readonly limits: DeviceLimits;
  readonly disks: readonly VmDisk[];
  /** Needed for diff snapshots; costs a write fault per page. */
  readonly tracksDirtyPages: boolean;
  /** Undefined without a balloon. */
  readonly balloonMib: number | undefined;
}

export function bootCalls(plan: BootPlan): ApiCall[] {
  const { cpus, memoryMib, limits } = plan;
  const disk = rateLimiter(limits.disk);
  return [
    put('/machine-config', {
      vcpu_count: cpus,
      mem_size_mib: memoryMib,
      smt: false,
      track_dirty_pages: plan.tracksDirtyPages,
    }),
    put('/boot-source', { kernel_image_path: FILES.kernel, boot_args: kernelArgs(plan).join(' ') }),
    put(`/drives/${ROOT_ID}`, {
      drive_id: ROOT_ID,
      path_on_host: FILES.root,
      is_root_device: true,
      is_read_only: true,
      ...disk,
    }),
    put(`/drives/${OVERLAY_ID}`, {
      drive_id: OVERLAY_ID,
      path_on_host: FILES.overlay,
      is_root_device: false,
      is_read_only: false,
      ...disk,
    }),
    ...plan.disks.map(({ access }, index) =>
      put(`/drives/${furtherId(index)}`, {
        drive_id: furtherId(index),
        path_on_host: furtherDisk(index),
        is_root_device: false,
        is_read_only: access === 'read',
        ...disk,
      }),
    ),
    put('/vsock', { guest_cid: plan.guestCid, uds_path: plan.channelName }),
    put('/entropy', { ...rateLimiter(limits.entropy) }),
    ...(plan.balloonMib === undefined ? [] : [put('/balloon', balloon(plan.balloonMib))]),
  ];
}

/**
 * A guest close to OOM must not deflate the balloon itself: the host decides, or the guest's OOM killer. The current
 * size is one of the statistics, which are off without an interval. Each interval wakes the guest.
 */
function balloon(amount_mib: number): object {
  return { amount_mib, deflate_on_oom: false, stats_polling_interval_s: 0xffff };
}

/** Requests a size of the balloon from the running guest. */
export function balloonCall(amount_mib: number): ApiCall {
  return { method: 'PATCH', path: '/balloon', body: { amount_mib } };
}

/** Answered by the device, with the value that the guest last wrote into its configuration. */
export const BALLOON_SIZE_CALL: ApiCall = { method: 'GET', path: '/balloon/statistics' };

/** The call that makes Firecracker open the TAP. */
export function nicCall(nic: NicPlan, limits: DeviceLimits): ApiCall {
  const rx = rateLimiter(limits.nicToGuest).rate_limiter;
  const tx = rateLimiter(limits.nicFromGuest).rate_limiter;
  return put(`/network-interfaces/${NIC_ID}`, {
    iface_id: NIC_ID,
    host_dev_name: nic.tapName,
    guest_mac: nic.mac,
    ...(rx === undefined ? {} : { rx_rate_limiter: rx }),
    ...(tx === undefined ? {} : { tx_rate_limiter: tx }),
  });
}

/**
 * `Documentation/admin-guide/kernel-parameters.txt`; Firecracker adds `root=/dev/vda ro` and the devices.
 * docs/firecracker.md explains each argument; a test compares.
 */
export function kernelArgs(plan: Pick<BootPlan, 'bootArgs'>): string[] {
  return [
    'console=ttyS0',
    'quiet',
    // A reboot by the keyboard controller ends Firecracker; a panic reboots after a second.
    'reboot=k',
    'panic=1',
    'rootfstype=erofs',
    'init=/sbin/neurovisor-init',
    ...plan.bootArgs,
  ];
}

export const START_CALL: ApiCall = put('/actions', { action_type: 'InstanceStart' });
export const FLUSH_METRICS_CALL: ApiCall = put('/actions', { action_type: 'FlushMetrics' });
export const PAUSE_CALL: ApiCall = { method: 'PATCH', path: '/vm', body: { state: 'Paused' } };
export const RESUME_CALL: ApiCall = { method: 'PATCH', path: '/vm', body: { state: 'Resumed' } };

interface LoadPlan {
  readonly channelName: string;
  readonly nic: NicPlan | undefined;
  readonly tracksDirtyPages: boolean;
}

/** Needs a new Firecracker process. The guest runs once this is answered. */
export function loadCall(plan: LoadPlan): ApiCall {
  const { channelName, nic } = plan;
  return {
    ...put('/snapshot/load', {
      snapshot_path: FILES.state,
      mem_backend: { backend_type: 'File', backend_path: FILES.memory },
      track_dirty_pages: plan.tracksDirtyPages,
      resume_vm: true,
      ...(nic === undefined ? {} : { network_overrides: [{ iface_id: NIC_ID, host_dev_name: nic.tapName }] }),
      // Firecracker accepts an empty path, and makes no socket.
      vsock_override: { uds_path: channelName },
    }),
    msMax: SNAPSHOT_MS_MAX,
  };
}

/** Needs a paused VM. `diff`: writes only the pages changed since the last snapshot, into its RAM file. */
export function snapshotCall(kind: 'full' | 'diff'): ApiCall {
  return {
    ...put('/snapshot/create', {
      snapshot_type: kind === 'full' ? 'Full' : 'Diff',
      snapshot_path: FILES.state,
      mem_file_path: FILES.memory,
    }),
    msMax: SNAPSHOT_MS_MAX,
  };
}

/**
 * The limits of each disk, with a bucket of a tenth of a second's worth, but room for a request: Firecracker lets a
 * request that is larger than the bucket pass at once, then waits as long as refilling the deficit takes, and in that
 * time the bucket fills as well. Such requests would get up to twice the rate. The contents of a bucket may pass twice
 * at once: while it is full, Firecracker does not record the time, and refills it from its last use when it becomes
 * empty.
 */
export function diskLimit({ bytesPerSecond, opsPerSecond }: DiskLimits): DeviceLimit {
  const limit = (perSecond: number, sizeMin: number) => ({
    size: Math.max(sizeMin, perSecond / 10),
    refillPerSecond: perSecond,
  });
  return {
    ...(bytesPerSecond === undefined ? {} : { bandwidth: limit(bytesPerSecond, DISK_REQUEST_BYTES_MAX) }),
    ...(opsPerSecond === undefined ? {} : { ops: limit(opsPerSecond, 1) }),
  };
}

/** Replaces the limits of a running VM; omitted ones are lifted. */
export function diskLimitCalls(limits: DiskLimits, disks: readonly VmDisk[] = []): ApiCall[] {
  const { bandwidth, ops } = rateLimiter(diskLimit(limits)).rate_limiter ?? {};
  const none: Bucket = { size: 0, refill_time: 0 };
  const rate_limiter = { bandwidth: bandwidth ?? none, ops: ops ?? none };
  const further = disks.map((_, index) => furtherId(index));
  return [ROOT_ID, OVERLAY_ID, ...further].map((drive_id) => ({
    method: 'PATCH',
    path: `/drives/${drive_id}`,
    body: { drive_id, rate_limiter },
  }));
}

function put(path: string, body: object): ApiCall {
  return { method: 'PUT', path, body };
}

interface Bucket {
  readonly size: number;
  readonly refill_time: number;
  readonly one_time_burst?: number;
}

function rateLimiter(limit: DeviceLimit | undefined): { rate_limiter?: { bandwidth?: Bucket; ops?: Bucket } } {
  if (limit?.bandwidth === undefined && limit?.ops === undefined) return {};
  return {
    rate_limiter: {
      ...(limit.bandwidth === undefined ? {} : { bandwidth: bucket(limit.bandwidth) }),
      ...(limit.ops === undefined ? {} : { ops: bucket(limit.ops) }),
    },
  };
}

/** Firecracker's refill is the time from empty to full, in whole milliseconds; 0 would mean no limit. */
function bucket(limit: BucketLimit): Bucket {
  const size = Math.max(1, Math.round(limit.size));
  const burst = Math.round(limit.oneTimeBurst ?? 0);
  return {
    size,
    refill_time: Math.max(1, Math.round((1000 * size) / limit.refillPerSecond)),
    ...(burst > 0 ? { one_time_burst: burst } : {}),
  };
}
