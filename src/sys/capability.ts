/** Capabilities of this process (capabilities(7)). */
import { readFileSync } from 'node:fs';

/** Numbers of <linux/capability.h>. */
export const CAPABILITY = { NET_ADMIN: 12 } as const;

/** Whether this process has a capability in its user namespace, by CapEff of proc(5). */
export function hasCapability(number: number): boolean {
  const status = readFileSync('/proc/self/status', 'latin1');
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  return (effective & (1n << BigInt(number))) !== 0n;
}
