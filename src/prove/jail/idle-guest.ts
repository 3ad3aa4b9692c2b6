/**
 * A guest that does nothing: two instructions that any x86 processor, and any KVM, runs. Of a VMM that runs it one can
 * see what it may do, also where no Linux guest boots. Pure.
 */
import { elfProgram } from '../../jail/elf.ts';

const ENTRY = 0x10_0000n;
/** `hlt`, and back to it: the entry has interrupts off, so it sleeps for ever. */
const CODE = Uint8Array.of(0xf4, 0xeb, 0xfd);

/** @returns an ELF kernel without a note, which is entered in long mode by the 64-bit boot protocol of Linux */
export function idleGuest(): Uint8Array {
  return elfProgram(CODE, ENTRY);
}
