/**
 * A small eBPF assembler (RFC 9669), with the instructions for a packet filter that counts in a map. Pure. An
 * instruction has 8 bytes:
 *
 *     0 opcode · 1 destination register (low 4 bits), source (high) · 2 jump or memory offset i16 · 4 immediate i32
 */

/** r0 is the verdict; r1 the context at the start. A call takes r1 to r5 and clobbers them. */
export type Register = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9;
/** The end of the stack, which grows down; read only. */
const STACK = 10;

/** Opcodes, RFC 9669 sections 4 and 5. */
const OP = {
  loadWord: 0x61,
  loadHalf: 0x69,
  storeWord: 0x63,
  /** BPF_ATOMIC | BPF_DW, whose immediate is the operation. */
  atomic64: 0xdb,
  loadImmediate64: 0x18,
  move: 0xbf,
  move32Immediate: 0xb4,
  move32: 0xbc,
  addImmediate: 0x07,
  and32Immediate: 0x54,
  toBigEndian: 0xdc,
  jump: 0x05,
  jumpIfGreater: 0x2d,
  jumpIfEqual: 0x15,
  jumpIfEqual32: 0x16,
  jumpIfNotEqual32: 0x56,
  call: 0x85,
  exit: 0x95,
} as const;
const ATOMIC_ADD = 0;
/** BPF_PSEUDO_MAP_FD, as the source of a 64-bit immediate (linux/bpf.h). */
const MAP = 1;
/** BPF_FUNC_map_lookup_elem. */
const MAP_LOOKUP = 1;
const INSTRUCTION_BYTES = 8;
/** Jumps are i16 and only forward, so a longer program would be impossible to leave by a jump. */
const INSTRUCTIONS_MAX = 0x7fff;

interface Instruction {
  readonly op: number;
  readonly dst?: Register | typeof STACK;
  readonly src?: number;
  readonly offset?: number;
  readonly immediate?: number;
  readonly target?: string;
}

/** Appends instructions. Jumps name a later label. */
export class Assembler {
  readonly #instructions: Instruction[] = [];
  readonly #labels = new Map<string, number>();

  label(name: string): this {
    if (this.#labels.has(name)) throw new RangeError(`duplicate label ${name}`);
    this.#labels.set(name, this.#instructions.length);
    return this;
  }

  /** dst = the 32 bits at base + offset, in host byte order. */
  loadWord(dst: Register, base: Register, offset: number): this {
    return this.#push({ op: OP.loadWord, dst, src: base, offset });
  }

  loadHalf(dst: Register, base: Register, offset: number): this {
    return this.#push({ op: OP.loadHalf, dst, src: base, offset });
  }

  swap(dst: Register, bits: 16 | 32): this {
    return this.#push({ op: OP.toBigEndian, dst, immediate: bits });
  }

  move(dst: Register, src: Register): this {
    return this.#push({ op: OP.move, dst, src });
  }

  add(dst: Register, value: number): this {
    return this.#push({ op: OP.addImmediate, dst, immediate: value });
  }

  /** Sets the lower 32 bits; the upper ones become 0. */
  set32(dst: Register, value: number): this {
    return this.#push({ op: OP.move32Immediate, dst, immediate: value });
  }

  move32(dst: Register, src: Register): this {
    return this.#push({ op: OP.move32, dst, src });
  }

  and32(dst: Register, mask: number): this {
    return this.#push({ op: OP.and32Immediate, dst, immediate: mask });
  }

  /** Stores 32 bits on the stack at `offset` from its end, a negative multiple of 4. */
  storeOnStack(src: Register, offset: number): this {
    return this.#push({ op: OP.storeWord, dst: STACK, src, offset });
  }

  /** r0 = address of the value for the key on the stack, or 0. Uses r1 and r2. */
  lookUp(mapFd: number, keyOffset: number): this {
    this.#push({ op: OP.loadImmediate64, dst: 1, src: MAP, immediate: mapFd }).#push({ op: 0 });
    this.#push({ op: OP.move, dst: 2, src: STACK }).add(2, keyOffset);
    return this.#push({ op: OP.call, immediate: MAP_LOOKUP });
  }

  /** The 64 bits at base + offset += src, atomically. */
  atomicAdd64(base: Register, offset: number, src: Register): this {
    return this.#push({ op: OP.atomic64, dst: base, src, offset, immediate: ATOMIC_ADD });
  }

  jump(target: string): this {
    return this.#push({ op: OP.jump, target });
  }

  jumpIfGreater(left: Register, right: Register, target: string): this {
    return this.#push({ op: OP.jumpIfGreater, dst: left, src: right, target });
  }

  jumpIfZero(dst: Register, target: string): this {
    return this.#push({ op: OP.jumpIfEqual, dst, target });
  }

  jumpIfEqual32(dst: Register, value: number, target: string): this {
    return this.#push({ op: OP.jumpIfEqual32, dst, immediate: value, target });
  }

  jumpIfNotEqual32(dst: Register, value: number, target: string): this {
    return this.#push({ op: OP.jumpIfNotEqual32, dst, immediate: value, target });
  }

  exit(): this {
    return this.#push({ op: OP.exit });
  }

  /** @throws RangeError for a missing or earlier label, and for a program that is too long */
  assemble(): Uint8Array<ArrayBuffer> {
    const count = this.#instructions.length;
    if (count > INSTRUCTIONS_MAX) throw new RangeError(`a program of ${count} instructions`);
    const view = new DataView(new ArrayBuffer(count * INSTRUCTION_BYTES));
    for (const [index, instruction] of this.#instructions.entries()) {
      const { op, dst = 0, src = 0, immediate = 0, target } = instruction;
      const at = index * INSTRUCTION_BYTES;
      view.setUint8(at, op);
      view.setUint8(at + 1, (src << 4) | dst);
      const offset = target === undefined ? (instruction.offset ?? 0) : this.#jump(index, target);
      view.setInt16(at + 2, offset, true);
      view.setUint32(at + 4, immediate >>> 0, true);
    }
    return new Uint8Array(view.buffer);
  }

  #jump(from: number, target: string): number {
    const to = this.#labels.get(target);
    if (to === undefined || to <= from) throw new RangeError(`no label ${target} after its jump`);
    return to - from - 1;
  }

  #push(instruction: Instruction): this {
    this.#instructions.push(instruction);
    return this;
  }
}
