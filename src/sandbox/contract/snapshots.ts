/** The role of a control plane that saves sandboxes under ids and names. */

export interface Snapshots {
  /**
   * Saves a running or paused sandbox, which then continues. Open connections to it end.
   * @throws SandboxError `not_ready`, `name_taken`, `snapshot_failed`, `disk_full`
   */
  snapshot(id: string, options?: SnapshotOptions): Promise<SnapshotInfo>;
  snapshots(): Promise<readonly SnapshotInfo[]>;
  /** Does not affect sandboxes that were created from the snapshot. */
  removeSnapshot(idOrName: string): Promise<void>;
}

export interface SnapshotOptions {
  readonly name?: string;
  /** Without the memory: sandboxes boot from it. */
  readonly diskOnly?: boolean;
}

export interface SnapshotInfo {
  /** `[a-z0-9]{20}`. */
  readonly id: string;
  readonly name: string | null;
  /** Id of its sandbox. */
  readonly sandbox: string;
  /** As the sandbox had them. */
  readonly annotations: Readonly<Record<string, string>>;
  readonly cpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  readonly createdAtMs: number;
  /** Size on disk. */
  readonly bytes: number;
  /** It has no memory: sandboxes boot from its disk. */
  readonly diskOnly: boolean;
  /** False: it needs another kernel, image, VMM or processor, and can't start here. */
  readonly current: boolean;
  /** Version and commit of the NeuroVisor that made it, such as `0.2.0 (7b82c4f4)`; `null` before 0.2.0. */
  readonly madeBy: string | null;
}
