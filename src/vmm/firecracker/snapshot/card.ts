/**
 * Whether the guest of a snapshot has a network card, which Firecracker can neither give it nor take away: written
 * behind the state, where Firecracker never sees it. Pure.
 */
import { VmmError } from '../../errors.ts';

const MARK = Buffer.from('neurovisor:card\n', 'latin1');

/** The end of the file of a state. */
export function cardMark(hasCard: boolean): Buffer {
  return hasCard ? MARK : Buffer.alloc(0);
}

/**
 * @param state with its mark
 * @param wantsCard of the VM that is to load it
 * @returns what is Firecracker's
 * @throws VmmError `snapshot_refused`: it has a card, and none is wanted; `vm_unsupported`: the reverse
 */
export function withoutMark(state: Buffer, wantsCard: boolean): Buffer {
  const at = state.length - MARK.length;
  const hasCard = at >= 0 && state.subarray(at).equals(MARK);
  if (hasCard && !wantsCard) {
    throw new VmmError('snapshot_refused', 'could not load the snapshot', {
      cause: 'its guest has a network card, which Firecracker can not take away',
      remedy: 'give the sandbox a network; mode "none" lets nothing through',
    });
  }
  if (!hasCard && wantsCard) {
    throw new VmmError('vm_unsupported', "Firecracker can't start the VM", {
      cause: 'a card can not be given to a clone that has none',
      remedy: 'let it boot, or choose QEMU with NEUROVISOR_VMM=qemu',
    });
  }
  return hasCard ? state.subarray(0, at) : state;
}
