/** The one program of the images that benchmarks start: a static busybox. Debian package: `busybox-static`. */
import { copyFile, mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findProgram } from '../program.ts';

const BUSYBOX = 'busybox';
export const IN_IMAGE = '/bin/busybox';
export const MISSING = 'not measured: there is no static busybox in PATH (Debian: apt-get install busybox-static)';

/** Makes a root file system with nothing but busybox. @returns false if this host has none */
export async function makeBusyboxTree(
  tree: string,
  env: Readonly<Record<string, string | undefined>>,
): Promise<boolean> {
  const program = findProgram(BUSYBOX, env);
  if (program === null || !isStatic(await readFile(program))) return false;
  // Container runtimes mount the others there, and the root is read-only.
  for (const name of ['bin', 'dev', 'proc', 'sys', 'tmp']) {
    await mkdir(join(tree, name), { recursive: true });
  }
  await copyFile(program, join(tree, IN_IMAGE));
  return true;
}

const ELF64_LITTLE = Buffer.from('\x7fELF\x02\x01', 'latin1');
const PT_INTERP = 3;

/** Whether a 64-bit program needs no loader (elf(5): no header of the type PT_INTERP). */
export function isStatic(elf: Buffer): boolean {
  if (elf.length < 64 || !elf.subarray(0, ELF64_LITTLE.length).equals(ELF64_LITTLE)) return false;
  const offset = Number(elf.readBigUInt64LE(32));
  const [size, count] = [elf.readUInt16LE(54), elf.readUInt16LE(56)];
  if (offset + size * count > elf.length) return false;
  for (let index = 0; index < count; index += 1) {
    if (elf.readUInt32LE(offset + size * index) === PT_INTERP) return false;
  }
  return true;
}
