/**
 * Drops parts of a shared library that the loader never reads: sections behind the last segment, such as DWARF. Pure.
 */

// elf(5), 64 bits, little-endian.
const MAGIC = [0x7f, 0x45, 0x4c, 0x46, 2, 1];
const EHDR_BYTES = 64;
const PHDR_BYTES = 56;
const PHOFF = 32;
const SHOFF = 40;
const PHNUM = 56;
/** Followed by the number of sections and the index of their names, two bytes each. */
const SHENTSIZE = 58;

/** Returns a file unchanged if it is no such ELF file, or its headers are invalid. */
export function withoutSections(library: Uint8Array): Uint8Array {
  if (library.length < EHDR_BYTES || MAGIC.some((byte, at) => library[at] !== byte)) return library;
  const view = new DataView(library.buffer, library.byteOffset, library.byteLength);
  const at = Number(view.getBigUint64(PHOFF, true));
  const count = view.getUint16(PHNUM, true);
  let end = at + count * PHDR_BYTES;
  if (count === 0 || end > library.length) return library;
  for (let header = at; header < at + count * PHDR_BYTES; header += PHDR_BYTES) {
    const from = Number(view.getBigUint64(header + 8, true));
    end = Math.max(end, from + Number(view.getBigUint64(header + 32, true)));
  }
  if (end > library.length) return library;
  const kept = library.slice(0, end);
  const header = new DataView(kept.buffer);
  header.setBigUint64(SHOFF, 0n, true);
  for (const field of [SHENTSIZE, SHENTSIZE + 2, SHENTSIZE + 4]) header.setUint16(field, 0, true);
  return kept;
}
