/** System calls that a VMM's filter refused, for the evidence of its end. */
import type { VmExit } from '../../vmm/driver.ts';

/** The last one, and how many there were. */
export interface ViolationMark {
  /** Of this VMM, those that were only logged among them. */
  readonly count: number;
  /** Its number, of the host's processor. */
  readonly syscall: number;
  /** Null: it is newer than our table. */
  readonly name: string | null;
  /** Of the instruction that made it, `0x…`; null: nobody told. */
  readonly address: string | null;
  /** `logged`: it was let through (`--jail log`). */
  readonly action: 'refused' | 'logged';
  /** Milliseconds since 1970. */
  readonly atMs: number;
}

/** Who hears of the refusals of one VMM; whoever starts VMMs makes it. */
export interface HostViolations {
  /**
   * All that is known, once it has ended; waits a moment for what the kernel tells late. To be called once.
   * @param exit absent: it did not end by itself
   */
  settle(exit: VmExit | undefined): Promise<ViolationMark | null>;
}
