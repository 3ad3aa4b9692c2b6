/** The resources of a supervisor's VM (types only). */
import type { GuestListener } from '../../machine/guest/link.ts';
import type { NicSpec, Vm, VmVolume } from '../../machine/vmm/driver.ts';
import type { GuestMemory, InferencePort, MappedMemory, PackagePort, Workspace } from '../contract/parts.ts';

/** Resources made before the VM starts. */
export interface Prepared {
  readonly workspace: Workspace;
  readonly memory: GuestMemory;
  /** RAM that the VM maps; undefined if it boots, or `memory` has a copy. */
  readonly mapped: MappedMemory | undefined;
  /** Undefined if the VM boots with empty memory, or maps it. */
  readonly memoryReady: Promise<void> | undefined;
  /** Copies mapped RAM into `memory`, once, before a save. Undefined if it is there already. */
  readonly fillMemory: (() => Promise<void>) | undefined;
  readonly cid: number;
  readonly hasEnvironment: boolean;
  readonly listener: GuestListener;
  readonly port: InferencePort;
  /** Undefined if this host serves no packages. */
  readonly packages: PackagePort | undefined;
  readonly nic: NicSpec | undefined;
  readonly volumes: readonly VmVolume[];
}

export interface Running extends Prepared {
  readonly vm: Vm;
}

export type MadeMemory = Pick<Prepared, 'memory' | 'mapped' | 'memoryReady' | 'fillMemory'>;
