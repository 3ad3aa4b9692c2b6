/** Rate limits of a VM's disks, independent of what enforces them. */
export interface DiskLimits {
  /** Reads and writes together. */
  readonly bytesPerSecond?: number;
  /** Reads and writes together, each as large as the guest made it. */
  readonly opsPerSecond?: number;
}

export function hasDiskLimits({ bytesPerSecond, opsPerSecond }: DiskLimits): boolean {
  return bytesPerSecond !== undefined || opsPerSecond !== undefined;
}
