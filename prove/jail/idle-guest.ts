/**
 * An idle guest of two instructions, which any x86 processor and any KVM runs: for proofs about VMMs on hosts that
 * can't boot a Linux guest. Pure.
 */
import { elfProgram } from '../../src/machine/jail/elf.ts';

const ENTRY = 0x10_0000n;
/** `hlt` in a loop: interrupts are off at the entry, so it sleeps forever. */
const CODE = Uint8Array.of(0xf4, 0xeb, 0xfd);

/** @returns an ELF kernel without a note, which is entered in long mode by the 64-bit boot protocol of Linux */
export function idleGuest(): Uint8Array {
  return elfProgram(CODE, ENTRY);
}
