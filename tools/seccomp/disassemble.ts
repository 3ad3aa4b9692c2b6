/** Disassembles seccomp programs: one line per instruction, with absolute jump targets. Pure. */
import { CODE, INSTRUCTION_BYTES, SECCOMP_DATA } from '../../src/machine/jail/seccomp/cbpf.ts';
import { actionOfReturn } from '../../src/machine/jail/seccomp/compile.ts';
import { actionText } from '../../src/machine/jail/seccomp/profile.ts';

export function disassemble(program: Uint8Array): string[] {
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  return Array.from({ length: program.length / INSTRUCTION_BYTES }, (_, index) => {
    const at = index * INSTRUCTION_BYTES;
    const constant = view.getUint32(at + 4, true);
    const [ifTrue, ifFalse] = [view.getUint8(at + 2), view.getUint8(at + 3)].map((distance) => index + 1 + distance);
    const compare = (sign: string): string => `if A ${sign} ${hex(constant)} goto ${ifTrue} else ${ifFalse}`;
    switch (view.getUint16(at, true)) {
      case CODE.load:
        return `A = ${fieldName(constant)}`;
      case CODE.and:
        return `A &= ${hex(constant)}`;
      case CODE.jump:
        return `goto ${index + 1 + constant}`;
      case CODE.jumpIfEqual:
        return compare('==');
      case CODE.jumpIfGreater:
        return compare('>');
      case CODE.jumpIfGreaterOrEqual:
        return compare('>=');
      case CODE.return: {
        const action = actionOfReturn(constant);
        return `return ${action === undefined ? hex(constant) : actionText(action)}`;
      }
      default:
        return `code ${hex(view.getUint16(at, true))}`;
    }
  });
}

function fieldName(offset: number): string {
  if (offset === SECCOMP_DATA.number) return 'number';
  if (offset === SECCOMP_DATA.arch) return 'arch';
  const half = offset % 8 === 0 ? 'low' : 'high';
  return `${half} half of argument ${(offset - (offset % 8) - 16) / 8}`;
}

const hex = (value: number): string => `0x${value.toString(16)}`;
