/** Builds an ELF file for x86_64 with one segment and no library (elf(5)). Pure. */

const EHDR_BYTES = 64;
const PHDR_BYTES = 56;
export const ELF_CONTENT_AT = EHDR_BYTES + PHDR_BYTES;
const ET_EXEC = 2;
const EM_X86_64 = 62;
const EV_CURRENT = 1;
const PT_LOAD = 1;
const PF_RX = 5;
const PAGE_BYTES = 0x1000n;

/**
 * @param content code that is entered at its first byte
 * @param address address of the content in memory; its offset within a page must equal that in the file
 */
export function elfProgram(content: Uint8Array, address: bigint): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(ELF_CONTENT_AT + content.length);
  // 64 bits, little-endian.
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, EV_CURRENT]);
  bytes.set(content, ELF_CONTENT_AT);
  const view = new DataView(bytes.buffer);
  view.setUint16(16, ET_EXEC, true);
  view.setUint16(18, EM_X86_64, true);
  view.setUint32(20, EV_CURRENT, true);
  view.setBigUint64(24, address, true);
  view.setBigUint64(32, BigInt(EHDR_BYTES), true);
  view.setUint16(52, EHDR_BYTES, true);
  view.setUint16(54, PHDR_BYTES, true);
  view.setUint16(56, 1, true);
  const header = new DataView(bytes.buffer, EHDR_BYTES);
  header.setUint32(0, PT_LOAD, true);
  header.setUint32(4, PF_RX, true);
  // File offset, virtual and physical address, size in the file and in memory, alignment.
  const length = BigInt(content.length);
  const rest = [BigInt(ELF_CONTENT_AT), address, address, length, length, PAGE_BYTES];
  for (const [index, value] of rest.entries()) header.setBigUint64(8 + 8 * index, value, true);
  return bytes;
}
