/** What the host has left (proc(5)). */
import { readFileSync } from 'node:fs';

const KIB_PER_MIB = 1024;

/** Memory that can be used without swapping, MiB, not rounded; 0 if the kernel does not tell. */
export function availableMib(): number {
  const match = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'latin1'));
  return Number(match?.[1] ?? 0) / KIB_PER_MIB;
}
