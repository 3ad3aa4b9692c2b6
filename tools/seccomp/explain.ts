/** Explains a profile in readable form: the action for each call, and its cost. Pure. */
import { compileProfile } from '../../src/machine/jail/seccomp/compile.ts';
import { actionText, type Condition, type Profile, type ThreadFilter } from '../../src/machine/jail/seccomp/profile.ts';
import { checkRules, redundantRules } from '../../src/machine/jail/seccomp/profile-check.ts';
import { type Architecture, AUDIT_ARCH, syscallNumber } from '../../src/machine/jail/seccomp/syscalls.ts';
import { interpret } from './interpret.ts';

interface ExplainedRule {
  readonly syscall: string;
  readonly number: number;
  /** All must hold; an empty list matches every call. */
  readonly when: readonly string[];
  readonly action: string;
  /** The call site that needs it. */
  readonly comment: string | null;
}

export interface ExplainedThread {
  readonly thread: string;
  /** The action for calls without a rule. */
  readonly otherwise: string;
  readonly rules: readonly ExplainedRule[];
  /** Calls that have a rule. */
  readonly syscalls: number;
  /** Length of the program; 8 bytes each. */
  readonly instructions: number;
  /** Maximum number of instructions for a call with a rule (with arguments of 0). */
  readonly stepsMax: number;
  /** Entries that change nothing. */
  readonly redundant: readonly string[];
}

/** @throws JailError `profile_invalid`, `profile_too_large` */
export function explainProfile(profile: Profile, arch: Architecture): ExplainedThread[] {
  return [...profile.values()].map((filter) => explainThread(filter, arch));
}

function explainThread(filter: ThreadFilter, arch: Architecture): ExplainedThread {
  checkRules(filter);
  const { program, instructions } = compileProfile(filter, arch);
  const rules = filter.rules.map(({ syscall, conditions, action, comment }) => ({
    syscall,
    number: syscallNumber(syscall, arch) ?? -1,
    when: conditions.map(conditionText),
    action: actionText(action ?? filter.filterAction),
    comment: comment ?? null,
  }));
  const numbers = new Set(rules.map(({ number }) => number));
  const steps = [...numbers].map((number) => interpret(program, { arch: AUDIT_ARCH[arch], number, args: [] }).steps);
  return {
    thread: filter.name,
    otherwise: actionText(filter.defaultAction),
    rules,
    syscalls: numbers.size,
    instructions,
    stepsMax: Math.max(0, ...steps),
    redundant: redundantRules(filter),
  };
}

const SIGNS = { eq: '==', ne: '!=', lt: '<', le: '<=', gt: '>', ge: '>=' } as const;

/** `arg1 == 0xae80`, `arg0 & 0x10000 == 0x10000`; `u64` marks 64 bits. */
function conditionText({ index, bits, operator, value, mask }: Condition): string {
  const argument = `${bits === 64 ? 'u64 ' : ''}arg${index}`;
  return operator === 'masked_eq'
    ? `${argument} & ${hex(mask)} == ${hex(value)}`
    : `${argument} ${SIGNS[operator]} ${hex(value)}`;
}

const hex = (value: bigint): string => (value < 10n ? `${value}` : `0x${value.toString(16)}`);
