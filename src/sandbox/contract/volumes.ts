/** The role of a control plane that keeps disks which outlive sandboxes. */

export interface Volumes {
  /** Makes an empty volume. @throws SandboxError `spec_invalid`, `name_taken`, `disk_full`, `volumes_unavailable` */
  createVolume(request: VolumeRequest): Promise<VolumeInfo>;
  /** By name. */
  volumes(): Promise<readonly VolumeInfo[]>;
  /** @throws SandboxError `not_found`, `in_use` */
  removeVolume(idOrName: string): Promise<void>;
}

export interface VolumeRequest {
  readonly name: string;
  /** Default as for the disk of a sandbox. */
  readonly sizeMib?: number | undefined;
  readonly annotations?: VolumeInfo['annotations'];
}

export interface VolumeInfo {
  /** `[a-z0-9]{20}`. */
  readonly id: string;
  /** Unique among the volumes of its owner. */
  readonly name: string;
  /** What the interface that created it keeps with it. */
  readonly annotations: Readonly<Record<string, string>>;
  /** What fits into it, file system included. */
  readonly sizeMib: number;
  /** Size on disk. */
  readonly bytes: number;
  readonly createdAtMs: number;
  /** Sandboxes that have it, also paused ones: one that writes, or any number that read. */
  readonly attached: readonly VolumeUse[];
}

export interface VolumeUse {
  readonly sandbox: string;
  readonly readOnly: boolean;
}
