/**
 * A guest that does nothing: two instructions that any x86 processor, and any KVM, runs. Of a VMM that runs it one can
 * see what it may do, also where no Linux guest boots. Pure.
 */

const ENTRY = 0x10_0000n;
/** `hlt`, and back to it: the entry has interrupts off, so it sleeps for ever. */
const CODE = Uint8Array.of(0xf4, 0xeb, 0xfd);
const EHDR_BYTES = 64;
const PHDR_BYTES = 56;
/** elf.h */
const ET_EXEC = 2;
const EM_X86_64 = 62;
const EV_CURRENT = 1;
const PT_LOAD = 1;
const PF_RX = 5;

/** @returns an ELF kernel without a note, which is entered in long mode by the 64-bit boot protocol of Linux */
export function idleGuest(): Uint8Array {
  const at = EHDR_BYTES + PHDR_BYTES;
  const bytes = new Uint8Array(at + CODE.length);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, EV_CURRENT]);
  bytes.set(CODE, at);
  const view = new DataView(bytes.buffer);
  view.setUint16(16, ET_EXEC, true);
  view.setUint16(18, EM_X86_64, true);
  view.setUint32(20, EV_CURRENT, true);
  view.setBigUint64(24, ENTRY, true);
  view.setBigUint64(32, BigInt(EHDR_BYTES), true);
  view.setUint16(52, EHDR_BYTES, true);
  view.setUint16(54, PHDR_BYTES, true);
  view.setUint16(56, 1, true);
  const header = new DataView(bytes.buffer, EHDR_BYTES);
  header.setUint32(0, PT_LOAD, true);
  header.setUint32(4, PF_RX, true);
  // Where it is in the file; then virtual and physical address, bytes there and in memory, alignment.
  const rest = [BigInt(at), ENTRY, ENTRY, BigInt(CODE.length), BigInt(CODE.length), 0x1000n];
  for (const [index, value] of rest.entries()) header.setBigUint64(8 + 8 * index, value, true);
  return bytes;
}
