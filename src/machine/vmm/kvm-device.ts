/** Whether this process may use /dev/kvm, and the remedy if not. */
import type { Stats } from 'node:fs';
import { open, readFile, stat } from 'node:fs/promises';
import { describeError, errorCode } from '../../base/errors.ts';
import { awaitOr } from '../../base/ignore.ts';
import { VmmError } from './errors.ts';

export const KVM_DEVICE = '/dev/kvm';

export interface KvmObstacle {
  /** One clause. */
  readonly reason: string;
  readonly remedy: string;
}

/** `null` if it can be opened. The result can change without a reboot. */
export async function findKvmObstacle(device = KVM_DEVICE): Promise<KvmObstacle | null> {
  try {
    await (await open(device, 'r+')).close();
    return null;
  } catch (error) {
    return await obstacleOf(device, error);
  }
}

async function obstacleOf(device: string, error: unknown): Promise<KvmObstacle> {
  switch (errorCode(error)) {
    case 'ENOENT':
      return {
        reason: `${device} does not exist`,
        remedy:
          'Turn virtualization on (firmware, or nested virtualization of this virtual machine), and load the module: sudo modprobe kvm_intel, or kvm_amd. In a container, pass the device: --device /dev/kvm.',
      };
    case 'EACCES':
      return {
        reason: `${device} can't be opened by this user`,
        remedy: remedyForRights(
          device,
          await awaitOr(null, 'its owner is unknown', () => stat(device)),
          await awaitOr('', 'groups have no names here', () => readFile('/etc/group', 'utf8')),
        ),
      };
    case 'EPERM':
      return {
        reason: `${device} can't be opened here`,
        remedy: 'Allow this container or unit the device: --device /dev/kvm, or DeviceAllow=/dev/kvm rw.',
      };
    default:
      return {
        reason: `${device} can't be opened: ${describeError(error)}`,
        remedy: 'Load the module again: sudo modprobe kvm_intel, or kvm_amd.',
      };
  }
}

/** @param owner `null` if unknown. @param groups text of /etc/group */
export function remedyForRights(device: string, owner: Pick<Stats, 'mode' | 'gid'> | null, groups: string): string {
  const join = (group: string): string => `sudo usermod -aG ${group} "$USER", and log in again`;
  if (owner !== null && (owner.mode & 0o060) === 0o060 && owner.gid !== 0) {
    const group = groupName(owner.gid, groups);
    return `Add this user to its group, ${group}: ${join(group)}.`;
  }
  return `Give it to a group and this user that group: sudo chgrp kvm ${device} && sudo chmod 660 ${device} && ${join('kvm')}.`;
}

/** @param groups text of /etc/group. @returns the number if it has no name */
export function groupName(gid: number, groups: string): string {
  const fields = groups.split('\n').map((line) => line.split(':'));
  return fields.find(([name, , id]) => name !== '' && id === `${gid}`)?.[0] ?? `${gid}`;
}

/**
 * The error of a start whose VMM complained about KVM while /dev/kvm was missing or not accessible. Returns other
 * errors unchanged.
 */
export async function explainKvm(error: unknown, device?: string): Promise<unknown> {
  if (!(error instanceof VmmError) || !/kvm/i.test(describeError(error))) return error;
  const obstacle = await findKvmObstacle(device);
  if (obstacle === null) return error;
  const { reason, remedy } = obstacle;
  return new VmmError('vmm_start_failed', `the VM could not be started: ${reason}`, {
    cause: error,
    remedy: `${remedy} Running VMs are not affected.`,
  });
}
