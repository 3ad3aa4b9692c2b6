/** A filter under which a VMM's attempts to punch holes into one of its files succeed without effect. Pure. */
import type { ThreadFilter } from './profile.ts';

/** FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE (linux/falloc.h). */
const PUNCH_HOLE = 3n;
const LOW_BITS = 0xffff_ffffn;

/**
 * QEMU returns a page to its host by a hole in the file and then by madvise(2), which it skips if the hole failed. In a
 * file that others map, too, the hole must not be made. An errno of 0 is success (seccomp(2), SECCOMP_RET_ERRNO).
 * @param fd descriptor in the VMM
 */
export function sparingFile(filter: ThreadFilter, fd: number): ThreadFilter {
  const equals = (index: number, value: bigint) =>
    ({ index, bits: 32, operator: 'eq', value, mask: LOW_BITS }) as const;
  const rule = {
    syscall: 'fallocate',
    conditions: [equals(0, BigInt(fd)), equals(1, PUNCH_HOLE)],
    action: { errno: 0 },
    comment: 'ram_block_discard_range, of RAM that others map',
  };
  return { ...filter, rules: [rule, ...filter.rules] };
}
