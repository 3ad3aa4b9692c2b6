/**
 * Finds the system calls that pass compiled filters: for each number, whether a path through the program ends in a
 * return that allows it. Pure. Arguments may be anything, so the result never misses a call.
 */
import { CODE, SECCOMP_DATA } from '../../src/machine/jail/seccomp/cbpf.ts';
import { actionOfReturn } from '../../src/machine/jail/seccomp/compile.ts';
import { type Architecture, AUDIT_ARCH, syscallNames, syscallNumber } from '../../src/machine/jail/seccomp/syscalls.ts';
import { type Instruction, readProgram } from './interpret.ts';

export interface Reach {
  /** Names of calls that pass with any arguments. */
  readonly always: readonly string[];
  /** Calls that pass with some arguments. */
  readonly conditional: readonly string[];
}

type Verdict = 'always' | 'conditional' | 'never';

/**
 * The reach of a thread: the kernel runs all its filters, and the strictest result wins.
 * @throws RangeError for a program that `interpret` does not know
 */
export function reachOf(programs: readonly Uint8Array[], arch: Architecture): Reach {
  const filters = programs.map(readProgram);
  const verdict = (name: string): Verdict => {
    const number = syscallNumber(name, arch) ?? -1;
    const each = filters.map((filter) => judge(filter, AUDIT_ARCH[arch], number));
    if (each.includes('never')) return 'never';
    return each.includes('conditional') ? 'conditional' : 'always';
  };
  const names = syscallNames(arch).map((name) => [name, verdict(name)] as const);
  const of = (wanted: Verdict): string[] => names.filter(([, verdict]) => verdict === wanted).map(([name]) => name);
  return { always: of('always'), conditional: of('conditional') };
}

/** Jumps only go forward, so each position is visited once per known value. */
function judge(program: readonly Instruction[], arch: number, number: number): Verdict {
  const seen = new Set<string>();
  const ends = { passes: false, refuses: false };
  const walk = (from: number, held: number | null): void => {
    let accumulator = held;
    for (let at = from; ; at += 1) {
      const { code, ifTrue, ifFalse, constant } = program[at] ?? OUTSIDE;
      const key = `${at} ${accumulator}`;
      if (seen.has(key)) return;
      seen.add(key);
      if (code === CODE.load) accumulator = known(constant, arch, number);
      else if (code === CODE.and) accumulator = accumulator === null ? null : (accumulator & constant) >>> 0;
      else if (code === CODE.jump) at += constant;
      else if (code === CODE.return) {
        const action = actionOfReturn(constant);
        ends[action === 'allow' || action === 'log' ? 'passes' : 'refuses'] = true;
        return;
      } else if (accumulator === null) {
        walk(at + 1 + ifTrue, null);
        at += ifFalse;
      } else at += holds(code, accumulator, constant) ? ifTrue : ifFalse;
    }
  };
  walk(0, 0);
  if (!ends.passes) return 'never';
  return ends.refuses ? 'conditional' : 'always';
}

/** A known field of `seccomp_data`; `null` for arguments and the instruction pointer. */
function known(offset: number, arch: number, number: number): number | null {
  if (offset === SECCOMP_DATA.number) return number;
  return offset === SECCOMP_DATA.arch ? arch : null;
}

function holds(code: number, accumulator: number, constant: number): boolean {
  if (code === CODE.jumpIfEqual) return accumulator === constant;
  return code === CODE.jumpIfGreater ? accumulator > constant : accumulator >= constant;
}

/** Unreachable: programs are verified. */
const OUTSIDE: Instruction = { code: CODE.return, ifTrue: 0, ifFalse: 0, constant: 0 };
