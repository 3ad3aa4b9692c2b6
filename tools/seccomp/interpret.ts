/**
 * Runs a seccomp program as the kernel would, to find a filter's result for a call and its cost. An independent
 * implementation of `cbpf.ts`' instructions (Documentation/networking/filter.rst). Pure.
 */
import { CODE, INSTRUCTION_BYTES, INSTRUCTIONS_MAX, SECCOMP_DATA } from '../../src/machine/jail/seccomp/cbpf.ts';

export interface Call {
  /** AUDIT_ARCH_… */
  readonly arch: number;
  readonly number: number;
  /** Up to six, u64. */
  readonly args: readonly bigint[];
}

interface FilterRun {
  /** SECCOMP_RET_… and its data. */
  readonly word: number;
  /** Instructions that ran. */
  readonly steps: number;
}

export interface Instruction {
  readonly code: number;
  readonly ifTrue: number;
  readonly ifFalse: number;
  readonly constant: number;
}

/** @throws RangeError for a program that the kernel would refuse, or with unknown instructions */
export function interpret(program: Uint8Array, call: Call): FilterRun {
  const instructions = readProgram(program);
  const data = seccompData(call);
  let accumulator = 0;
  let at = 0;
  for (let steps = 1; ; steps += 1) {
    const instruction = instructions[at];
    if (instruction === undefined) throw new RangeError(`a jump out of the program to ${at}`);
    const { code, constant } = instruction;
    const jump = (holds: boolean): number => (holds ? instruction.ifTrue : instruction.ifFalse);
    at += 1;
    if (code === CODE.load) accumulator = data.getUint32(constant, true);
    else if (code === CODE.and) accumulator = (accumulator & constant) >>> 0;
    else if (code === CODE.jump) at += constant;
    else if (code === CODE.jumpIfEqual) at += jump(accumulator === constant);
    else if (code === CODE.jumpIfGreater) at += jump(accumulator > constant);
    else if (code === CODE.jumpIfGreaterOrEqual) at += jump(accumulator >= constant);
    else return { word: constant, steps };
  }
}

/**
 * Checks as the kernel's `bpf_check_classic` and `seccomp_check_filter`: a run can end only at a return.
 * @throws RangeError
 */
export function readProgram(program: Uint8Array): Instruction[] {
  const count = program.length / INSTRUCTION_BYTES;
  if (!Number.isInteger(count) || count < 1 || count > INSTRUCTIONS_MAX)
    throw new RangeError(`a program of ${count} instructions`);
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const known = new Set<number>(Object.values(CODE));
  const out = Array.from({ length: count }, (_, index) => ({
    code: view.getUint16(index * INSTRUCTION_BYTES, true),
    ifTrue: view.getUint8(index * INSTRUCTION_BYTES + 2),
    ifFalse: view.getUint8(index * INSTRUCTION_BYTES + 3),
    constant: view.getUint32(index * INSTRUCTION_BYTES + 4, true),
  }));
  for (const [index, { code, ifTrue, ifFalse, constant }] of out.entries()) {
    if (!known.has(code)) throw new RangeError(`instruction ${index} has code ${code}`);
    const furthest = code === CODE.jump ? constant : Math.max(ifTrue, ifFalse);
    if (code !== CODE.return && index + 1 + furthest >= count)
      throw new RangeError(`instruction ${index} goes past the end`);
    if (code === CODE.load && (constant % 4 !== 0 || constant >= SECCOMP_DATA.bytes))
      throw new RangeError(`instruction ${index} loads from ${constant}`);
  }
  return out;
}

function seccompData({ arch, number, args }: Call): DataView {
  const view = new DataView(new ArrayBuffer(SECCOMP_DATA.bytes));
  view.setUint32(SECCOMP_DATA.number, number, true);
  view.setUint32(SECCOMP_DATA.arch, arch, true);
  for (const [index, value] of args.entries()) view.setBigUint64(16 + 8 * index, value, true);
  return view;
}
