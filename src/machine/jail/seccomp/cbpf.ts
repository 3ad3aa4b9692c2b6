/**
 * An assembler of classic BPF for seccomp (Documentation/networking/filter.rst, kernel/seccomp.c): one
 * accumulator, jumps only forward, the end is a return. Pure. An instruction is `struct sock_filter`:
 *
 *     0 code u16 · 2 jump if true u8 · 3 jump if false u8 · 4 constant u32
 */

/** linux/bpf_common.h: class | size or operation | mode or source. */
export const CODE = {
  load: 0x20,
  and: 0x54,
  /** BPF_JMP | BPF_JA; the constant is its 32-bit distance. */
  jump: 0x05,
  jumpIfEqual: 0x15,
  jumpIfGreater: 0x25,
  jumpIfGreaterOrEqual: 0x35,
  return: 0x06,
} as const;

/** BPF_MAXINSNS (linux/bpf_common.h). */
export const INSTRUCTIONS_MAX = 4096;
export const INSTRUCTION_BYTES = 8;
/** A conditional jump's distances are u8. */
const NEAR_MAX = 255;

/** `struct seccomp_data` (linux/seccomp.h), which `load` reads in words of 4 bytes. */
export const SECCOMP_DATA = { number: 0, arch: 4, bytes: 64 } as const;
/** Offset of a half of an argument, on little-endian processors. */
export const argumentOffset = (index: number, half: 'low' | 'high'): number =>
  16 + 8 * index + (half === 'high' ? 4 : 0);

type Comparison = 'jumpIfEqual' | 'jumpIfGreater' | 'jumpIfGreaterOrEqual';

/** A position in the program, set by `place`. */
export interface Label {
  readonly name: string;
}

interface Branch {
  readonly kind: 'branch';
  readonly comparison: Comparison;
  readonly constant: number;
  readonly targets: readonly [ifTrue: Label, ifFalse: Label];
}

type Item = Branch | { readonly kind: 'load' | 'and' | 'return'; readonly constant: number };

/**
 * Code after a `branch` or `return` needs a label. A target out of a conditional jump's reach is reached by an extra
 * instruction next to it.
 */
export class Assembler {
  readonly #items: Item[] = [];
  readonly #places = new Map<Label, number>();
  /** Offset of the word in the accumulator, here and at each label; `null` if unknown. */
  #holds: number | null = null;
  readonly #holdsAt = new Map<Label, number | null>();

  place(label: Label): this {
    if (this.#places.has(label)) throw new RangeError(`label ${label.name} is placed twice`);
    this.#places.set(label, this.#items.length);
    this.#holds = this.#holdsAt.get(label) ?? null;
    return this;
  }

  /** Loads the word at `offset` of `struct seccomp_data`, unless the accumulator already holds it. */
  load(offset: number): this {
    if (this.#holds !== offset) this.#items.push({ kind: 'load', constant: offset });
    this.#holds = offset;
    return this;
  }

  and(mask: number): this {
    this.#items.push({ kind: 'and', constant: mask });
    this.#holds = null;
    return this;
  }

  /** Compares the accumulator with a u32. */
  branch(comparison: Comparison, constant: number, ifTrue: Label, ifFalse: Label): this {
    this.#items.push({ kind: 'branch', comparison, constant, targets: [ifTrue, ifFalse] });
    for (const target of [ifTrue, ifFalse]) {
      const before = this.#holdsAt.get(target);
      const same = before === undefined || before === this.#holds;
      this.#holdsAt.set(target, same ? this.#holds : null);
    }
    return this;
  }

  return(word: number): this {
    this.#items.push({ kind: 'return', constant: word });
    return this;
  }

  /** @throws RangeError for a label that is not placed, or placed before its jump: a programmer error */
  assemble(): Uint8Array<ArrayBuffer> {
    const far = this.#farTargets();
    const positions = this.#positions(far);
    const words: { code: number; jt: number; jf: number; k: number }[] = [];
    const push = (code: number, k: number, jt = 0, jf = 0): void => {
      words.push({ code, jt, jf, k });
    };
    for (const item of this.#items) {
      if (item.kind !== 'branch') {
        push(CODE[item.kind], item.constant);
        continue;
      }
      const at = words.length;
      const relays = item.targets.filter((target) => far.get(item)?.has(target));
      const distance = (target: Label): number => {
        const relay = relays.indexOf(target);
        return relay < 0 ? this.#position(target, positions) - at - 1 : relay;
      };
      const [ifTrue, ifFalse] = item.targets;
      push(CODE[item.comparison], item.constant, distance(ifTrue), distance(ifFalse));
      for (const target of relays) {
        const there = this.#items[this.#places.get(target) ?? -1];
        // A return here costs no more than the jump to it.
        if (there?.kind === 'return') push(CODE.return, there.constant);
        else push(CODE.jump, this.#position(target, positions) - words.length - 1);
      }
    }
    return encode(words);
  }

  /** Repeats until all others are near: an extra instruction can put another target out of reach. */
  #farTargets(): Map<Branch, Set<Label>> {
    const far = new Map<Branch, Set<Label>>();
    for (let changed = true; changed; ) {
      changed = false;
      const positions = this.#positions(far);
      for (const [index, item] of this.#items.entries()) {
        if (item.kind !== 'branch') continue;
        const here = far.get(item) ?? new Set();
        for (const target of item.targets) {
          const distance = this.#position(target, positions) - (positions[index] ?? 0) - 1;
          if (distance < 0) throw new RangeError(`label ${target.name} is before its jump`);
          if (distance <= NEAR_MAX || here.has(target)) continue;
          far.set(item, here.add(target));
          changed = true;
        }
      }
    }
    return far;
  }

  /** Position of each item, in instructions. */
  #positions(far: ReadonlyMap<Branch, ReadonlySet<Label>>): number[] {
    let next = 0;
    return this.#items.map((item) => {
      const at = next;
      next += 1 + (item.kind === 'branch' ? (far.get(item)?.size ?? 0) : 0);
      return at;
    });
  }

  #position(label: Label, positions: readonly number[]): number {
    const position = positions[this.#places.get(label) ?? -1];
    if (position === undefined) throw new RangeError(`label ${label.name} is not placed`);
    return position;
  }
}

function encode(words: readonly { code: number; jt: number; jf: number; k: number }[]): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(words.length * INSTRUCTION_BYTES));
  for (const [index, { code, jt, jf, k }] of words.entries()) {
    const at = index * INSTRUCTION_BYTES;
    view.setUint16(at, code, true);
    view.setUint8(at + 2, jt);
    view.setUint8(at + 3, jf);
    view.setUint32(at + 4, k, true);
  }
  return new Uint8Array(view.buffer);
}
