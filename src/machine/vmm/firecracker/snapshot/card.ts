/**
 * Marks snapshots whose guest has a network card, which Firecracker can neither add nor remove. The mark is appended to
 * the state, where Firecracker never sees it. Pure.
 */
import { VmmError } from '../../errors.ts';

const MARK = Buffer.from('neurovisor:card\n', 'latin1');

/** The bytes to append to a state. */
export function cardMark(hasCard: boolean): Buffer {
  return hasCard ? MARK : Buffer.alloc(0);
}

/**
 * @param state with its mark
 * @param wantsCard whether the VM that loads it has a card
 * @returns Firecracker's state
 * @throws VmmError `snapshot_refused` if only the snapshot has a card, `vm_unsupported` if only the VM has one
 */
export function withoutMark(state: Buffer, wantsCard: boolean): Buffer {
  const at = state.length - MARK.length;
  const hasCard = at >= 0 && state.subarray(at).equals(MARK);
  if (hasCard && !wantsCard) {
    throw new VmmError('snapshot_refused', 'could not load the snapshot', {
      cause: 'its guest has a network card, which Firecracker can not remove',
      remedy: 'Give the sandbox a network; mode "none" blocks all traffic.',
    });
  }
  if (!hasCard && wantsCard) {
    throw new VmmError('vm_unsupported', "Firecracker can't start the VM", {
      cause: 'a network card can not be added to a clone without one',
      remedy: 'Boot it instead, or use QEMU: set NEUROVISOR_VMM=qemu.',
    });
  }
  return hasCard ? state.subarray(0, at) : state;
}
