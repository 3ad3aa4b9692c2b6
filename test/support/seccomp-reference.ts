/**
 * The meaning of a seccomp profile, as plainly as possible: the reference for the compiler. Slow, and independent of
 * `compile.ts` on purpose.
 */

import type { Action, Condition, ThreadFilter } from '../../src/machine/jail/seccomp/profile.ts';
import { type Architecture, AUDIT_ARCH, syscallNumber } from '../../src/machine/jail/seccomp/syscalls.ts';
import type { Call } from '../../tools/seccomp/interpret.ts';

export function decide(filter: ThreadFilter, arch: Architecture, call: Call): Action {
  if (call.arch !== AUDIT_ARCH[arch]) return 'kill_process';
  if (arch === 'x86_64' && call.number >= 0x4000_0000) return 'kill_process';
  for (const rule of filter.rules) {
    if (syscallNumber(rule.syscall, arch) !== call.number) continue;
    if (rule.conditions.every((condition) => holds(condition, call.args[condition.index] ?? 0n)))
      return rule.action ?? filter.filterAction;
  }
  return filter.defaultAction;
}

function holds({ bits, operator, value, mask }: Condition, argument: bigint): boolean {
  const seen = BigInt.asUintN(bits, argument);
  switch (operator) {
    case 'eq':
      return seen === value;
    case 'ne':
      return seen !== value;
    case 'lt':
      return seen < value;
    case 'le':
      return seen <= value;
    case 'gt':
      return seen > value;
    case 'ge':
      return seen >= value;
    case 'masked_eq':
      return (seen & mask) === value;
  }
}
