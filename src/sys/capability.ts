/** What the kernel lets this process do (capabilities(7)). */
import { readFileSync } from 'node:fs';

/** Numbers of <linux/capability.h>. */
export const CAPABILITY = { NET_ADMIN: 12 } as const;

/** Of this process now, by CapEff of proc(5). It is one of the user namespace that the process is in. */
export function hasCapability(number: number): boolean {
  const status = readFileSync('/proc/self/status', 'latin1');
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  return (effective & (1n << BigInt(number))) !== 0n;
}
