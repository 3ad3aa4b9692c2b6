/** The rows of snapshots in the store: what they say, and the errors about them. */
import { productName } from '../../base/package-dir.ts';
import type { MachineSize, VmSnapshot } from '../../machine/vmm/driver.ts';
import type { SnapshotInfo } from '../contract/control.ts';
import { environmentDisks } from '../contract/environment.ts';
import { SandboxError } from '../contract/errors.ts';
import type { SandboxSpec, TemplateSpec } from '../contract/spec.ts';
import { vmMemory } from '../memory/size.ts';
import type { SnapshotRow } from '../store/snapshot.ts';
import type { OpenSnapshot } from '../store/snapshot-table.ts';

export function differenceOf({ row, paths }: Pick<OpenSnapshot, 'row' | 'paths'>): Pick<VmSnapshot, 'difference'> {
  const { base: baseDigest } = row;
  const { difference: path } = paths;
  return baseDigest === undefined || path === undefined ? {} : { difference: { path, baseDigest } };
}

/** Older rows lack volumes, which only pauses have. */
type SavedSpec = TemplateSpec & Partial<Pick<SandboxSpec, 'volumes'>>;

export const machineSize = ({ cpus, environment, volumes = [], ...size }: SavedSpec): MachineSize => ({
  cpus,
  ...vmMemory(size),
  ...environmentDisks(environment),
  volumes: volumes.map(({ readOnly }) => ({ access: readOnly === true ? 'read' : 'write' })),
});

/** @throws SandboxError `in_use` */
export function requireNoVolumes({ volumes = [] }: Partial<Pick<SandboxSpec, 'volumes'>>): void {
  if (volumes.length === 0) return;
  throw new SandboxError('in_use', 'a sandbox with volumes has no snapshots, and no forks if it writes to one', {
    remedy: 'pause it instead, or copy the files that you need: neurovisor cp',
  });
}

export const isDiskOnly = ({ stateSha256 }: SnapshotRow): boolean => stateSha256 === null;

interface StoredSnapshot extends SavedSpec {
  /** Older rows lack them. */
  readonly annotations?: SnapshotInfo['annotations'];
}

export function snapshotSpec(row: SnapshotRow): SavedSpec {
  const { annotations: _ofItsOwner, ...spec } = JSON.parse(row.specJson) as StoredSnapshot;
  return spec;
}

export function savedSpec(
  { cpus, memoryMib, memoryMaxMib, diskMib, warm, environment, volumes }: SandboxSpec,
  annotations: SnapshotInfo['annotations'],
): string {
  const attached = volumes.length === 0 ? {} : { volumes };
  return JSON.stringify({ cpus, memoryMib, memoryMaxMib, diskMib, warm, environment, annotations, ...attached });
}

export function annotationsOf(row: SnapshotRow): SnapshotInfo['annotations'] {
  return (JSON.parse(row.specJson) as StoredSnapshot).annotations ?? {};
}

/** @param machine what this host's VMM would make for it */
export function foreign(
  row: Pick<SnapshotRow, 'id' | 'name' | 'kind' | 'sandboxId' | 'machine' | 'madeBy'>,
  machine: string,
): SandboxError {
  const what = row.kind === 'pause' ? `the pause of sandbox ${row.sandboxId}` : `snapshot ${row.name ?? row.id}`;
  const [its, ours] = [vmmOf(row.machine), vmmOf(machine)];
  if (its === undefined || ours === undefined || its === ours) {
    const commit = /\((\w+)\)$/.exec(row.madeBy ?? '')?.[1];
    const maker = commit === undefined ? 'the version that made it' : `that version (git checkout ${commit})`;
    const copied = `here its files can be copied out: neurovisor cp ${row.sandboxId}:PATH .`;
    const here = row.kind === 'pause' ? copied : 'here it can only be removed';
    return new SandboxError('snapshot_foreign', `${what} was made with another kernel, image, VMM or processor`, {
      ...(row.madeBy === null ? {} : { cause: `NeuroVisor ${row.madeBy} made it, and this is ${productName()}` }),
      remedy: `use ${maker} on the same machine to continue; ${here}`,
    });
  }
  const option = `--vmm ${its.toLowerCase()}`;
  return new SandboxError('snapshot_foreign', `${what} was made with ${its}`, {
    cause: `VMs run in ${ours} here`,
    remedy: `restart the daemon with \`neurovisor serve ${option}\``,
  });
}

/** A machine's text begins with its VMM: `VmmDriver.machineOf`. */
function vmmOf(machine: string): string | undefined {
  return /^(QEMU|Firecracker) /.exec(machine)?.[1];
}

export function noSnapshot(idOrName: string): SandboxError {
  return new SandboxError('not_found', `there is no snapshot ${idOrName}`, { remedy: 'neurovisor snapshot ls' });
}
