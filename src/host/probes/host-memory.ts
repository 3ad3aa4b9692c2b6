/** Memory of the host and of processes (proc(5)). */
import { readFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import { tryOr } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import type { MemoryPressure } from '../../sandbox/plane/load.ts';
import { MemoryGroups } from './memory-groups.ts';

const KIB_PER_MIB = 1024;
const BYTES_PER_KIB = 1024;
/** Page size on x86-64. */
const PAGE_BYTES = 4096;

let groups: MemoryGroups | undefined;

/** Memory that this process and its VMs may use, MiB: the host's, or the limit of a control group. */
export function totalMib(): number {
  groups ??= new MemoryGroups();
  return Math.min(totalmem() / MIB, groups.limitMib());
}

/** Memory available to this process and its VMs, MiB, not rounded: the host's, or what a control group leaves. */
export function availableMib(): number {
  groups ??= new MemoryGroups();
  return Math.min(hostAvailableMib(), groups.availableMib());
}

let lastAvailableMib = 0;

/**
 * Memory of the host that is available without swapping, MiB, not rounded. Does not throw: if it can't be read, for
 * example without free descriptors, returns the last value; 0 if there is none.
 */
export function hostAvailableMib(): number {
  const match = /^MemAvailable:\s+(\d+) kB$/m.exec(readIfThere('/proc/meminfo') ?? '');
  if (match !== null) lastAvailableMib = Number(match[1]) / KIB_PER_MIB;
  return lastAvailableMib;
}

/** Resident memory of a process in bytes; `null` if it has ended. */
export function residentBytes(pid: number): number | null {
  const text = readIfThere(`/proc/${pid}/statm`);
  const pages = Number(text?.split(' ')[1]);
  return Number.isSafeInteger(pages) ? pages * PAGE_BYTES : null;
}

/** Private anonymous memory of a process in bytes, without mapped files; `null` if it has ended. */
export function anonymousBytes(pid: number): number | null {
  const [, resident, shared] = (readIfThere(`/proc/${pid}/statm`) ?? '').split(' ').map(Number);
  const pages = (resident ?? Number.NaN) - (shared ?? Number.NaN);
  return Number.isSafeInteger(pages) ? pages * PAGE_BYTES : null;
}

export interface Mapping {
  /** Its file, or a name like `[heap]`; empty if anonymous. */
  readonly path: string;
  readonly kib: number;
  readonly isCode: boolean;
}

/** Memory of mappings, MiB. */
export interface MappedMemory {
  /** For pages that several processes map, the proportional share (PSS). */
  readonly proportionalMib: number;
  /** Pages that no other process maps. */
  readonly privateMib: number;
  /** Pages that are in no file; for a privately mapped file, the pages that the process has changed. */
  readonly anonymousMib: number;
}

const SMAPS_FIELD = /^(Pss|Private_Clean|Private_Dirty|Anonymous): +(\d+) kB$/;

/** The memory of the selected mappings. @param smaps /proc/<pid>/smaps */
export function mappedMemory(smaps: string, isWanted: (mapping: Mapping) => boolean): MappedMemory {
  let proportionalKib = 0;
  let privateKib = 0;
  let anonymousKib = 0;
  let wanted = false;
  for (const line of smaps.split('\n')) {
    const head = /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)$/.exec(line);
    if (head !== null) {
      const [, start = '', end = '', access = '', path = ''] = head;
      const bytes = Number(BigInt(`0x${end}`) - BigInt(`0x${start}`));
      wanted = isWanted({ path, kib: bytes / BYTES_PER_KIB, isCode: access.includes('x') });
    }
    const [, name, kib] = SMAPS_FIELD.exec(line) ?? [];
    if (!wanted) continue;
    if (name === 'Pss') proportionalKib += Number(kib);
    else if (name === 'Anonymous') anonymousKib += Number(kib);
    else if (name !== undefined) privateKib += Number(kib);
  }
  return {
    proportionalMib: proportionalKib / KIB_PER_MIB,
    privateMib: privateKib / KIB_PER_MIB,
    anonymousMib: anonymousKib / KIB_PER_MIB,
  };
}

/** Prefix of memfd names for the RAM of one VM. */
export const OWN_RAM = '/memfd:guest-ram';
/** Prefix of memfd names for RAM that several VMs map privately. */
const SHARED_RAM = '/memfd:shared-ram';

/** Whether a path in /proc is a memfd of guest RAM. */
export const isGuestRam = (path: string): boolean => path.startsWith(OWN_RAM) || path.startsWith(SHARED_RAM);

/**
 * A VMM's memory beside its guest's RAM: QEMU names the RAM; for Firecracker it is one mapping of the guest's size.
 * @returns `null` if no mapping is the RAM
 */
export function memoryBesideRam(smaps: string, ramMib: number): MappedMemory | null {
  let hasRam = false;
  const memory = mappedMemory(smaps, ({ path, kib }) => {
    const isRam = isGuestRam(path) || kib === ramMib * KIB_PER_MIB;
    hasRam ||= isRam;
    return !isRam;
  });
  return hasRam ? memory : null;
}

/** `null` if the kernel has no pressure stall information (PSI). */
export function memoryPressure(): MemoryPressure | null {
  const text = readIfThere('/proc/pressure/memory');
  return text === null ? null : parsePressure(text);
}

/** The 10-second averages (Documentation/accounting/psi.rst). */
export function parsePressure(text: string): MemoryPressure | null {
  const ratio = (kind: string): number => Number(new RegExp(`^${kind} avg10=([0-9.]+)`, 'm').exec(text)?.[1]) / 100;
  const pressure = { some: ratio('some'), full: ratio('full') };
  return Number.isFinite(pressure.some) && Number.isFinite(pressure.full) ? pressure : null;
}

function readIfThere(path: string): string | null {
  return tryOr(null, 'absent, gone, or no descriptor is free', () => readFileSync(path, 'latin1'));
}
