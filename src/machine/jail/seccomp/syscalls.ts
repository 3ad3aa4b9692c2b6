/** Syscall numbers by name, for each processor that a VMM runs on. Pure. */
import { AARCH64, X86_64 } from './syscall-tables.ts';

export const ARCHITECTURES = ['x86_64', 'aarch64'] as const;
export type Architecture = (typeof ARCHITECTURES)[number];

/** AUDIT_ARCH_… (linux/audit.h): `seccomp_data.arch` of native calls. */
export const AUDIT_ARCH: Readonly<Record<Architecture, number>> = { x86_64: 0xc000_003e, aarch64: 0xc000_00b7 };

const TABLES: Readonly<Record<Architecture, ReadonlyMap<string, number>>> = {
  x86_64: readTable(X86_64),
  aarch64: readTable(AARCH64),
};

/** @returns undefined if this processor has no such call, or the call is newer than the table */
export function syscallNumber(name: string, arch: Architecture): number | undefined {
  return TABLES[arch].get(name);
}

/** @returns undefined for a number that is unknown or newer than the table */
export function syscallName(number: number, arch: Architecture): string | undefined {
  for (const [name, each] of TABLES[arch]) if (each === number) return name;
  return undefined;
}

/** Sorted by number. */
export function syscallNames(arch: Architecture): string[] {
  return [...TABLES[arch].keys()];
}

function readTable(text: string): Map<string, number> {
  const out = new Map<string, number>();
  for (const line of text.trim().split('\n')) {
    const [first, ...names] = line.split(' ');
    for (const [index, name] of names.entries()) out.set(name, Number(first) + index);
  }
  return out;
}
