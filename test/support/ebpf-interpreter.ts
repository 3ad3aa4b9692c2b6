/**
 * Runs programs of `src/egress/net/xdp/assembler.ts` without a kernel: an independent implementation of RFC 9669 with
 * addresses that no real program has, so that a load outside the frame is an error, as for the verifier.
 */

const FRAME_AT = 0x1_0000_0000n;
const CONTEXT_AT = 0x2_0000_0000n;
const MAP_AT = 0x3_0000_0000n;
const STACK_AT = 0x4_0000_0000n;
const STACK_BYTES = 512;
/** Index of the link that every frame arrives by. */
export const LINK_INDEX = 77;
const STEPS_MAX = 10_000;
const LOW_32 = 0xffff_ffffn;

export interface Run {
  readonly verdict: number;
  /** The value of the map for `LINK_INDEX` afterwards. */
  readonly map: DataView;
}

/** @param isMapped whether the map has the link */
export function interpret(program: Uint8Array, frame: Uint8Array, mapBytes: number, isMapped = true): Run {
  const code = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const memory = new DataView(Uint8Array.from(frame).buffer);
  const map = new DataView(new ArrayBuffer(mapBytes));
  const r: bigint[] = Array.from({ length: 11 }, () => 0n);
  const stack = new DataView(new ArrayBuffer(STACK_BYTES));
  r[1] = CONTEXT_AT;
  r[10] = STACK_AT + BigInt(STACK_BYTES);
  const get = (register: number): bigint => r[register] ?? 0n;
  const load = (address: bigint, bytes: 2 | 4): bigint => {
    if (address === CONTEXT_AT) return FRAME_AT;
    if (address === CONTEXT_AT + 4n) return FRAME_AT + BigInt(frame.length);
    if (address === CONTEXT_AT + 12n) return BigInt(LINK_INDEX);
    const at = Number(address - FRAME_AT);
    return BigInt(bytes === 2 ? memory.getUint16(at, true) : memory.getUint32(at, true));
  };
  let at = 0;
  for (let step = 0; step < STEPS_MAX; step += 1) {
    const [op, registers] = [code.getUint8(at), code.getUint8(at + 1)];
    const [dst, src] = [registers & 15, registers >> 4];
    const offset = code.getInt16(at + 2, true);
    const immediate = code.getUint32(at + 4, true);
    at += 8;
    const jumpIf = (condition: boolean): void => {
      if (condition) at += 8 * offset;
    };
    if (op === 0x61) r[dst] = load(get(src) + BigInt(offset), 4);
    else if (op === 0x69) r[dst] = load(get(src) + BigInt(offset), 2);
    else if (op === 0xbf) r[dst] = get(src);
    else if (op === 0xb4) r[dst] = BigInt(immediate);
    else if (op === 0xbc) r[dst] = get(src) & LOW_32;
    else if (op === 0x07) r[dst] = get(dst) + BigInt(immediate | 0);
    else if (op === 0x54) r[dst] = get(dst) & BigInt(immediate) & LOW_32;
    else if (op === 0xdc) r[dst] = swapped(get(dst), immediate / 8);
    else if (op === 0x05) jumpIf(true);
    else if (op === 0x2d) jumpIf(get(dst) > get(src));
    else if (op === 0x16) jumpIf((get(dst) & LOW_32) === BigInt(immediate));
    else if (op === 0x56) jumpIf((get(dst) & LOW_32) !== BigInt(immediate));
    else if (op === 0x15) jumpIf(get(dst) === BigInt(immediate));
    else if (op === 0x63) {
      stack.setUint32(Number(get(dst) - STACK_AT) + offset, Number(get(src) & LOW_32), true);
    } else if (op === 0x18) {
      // The descriptor of a map.
      r[dst] = BigInt(immediate);
      at += 8;
    } else if (op === 0x85) {
      const key = stack.getUint32(Number(get(2) - STACK_AT), true);
      r[0] = isMapped && key === LINK_INDEX ? MAP_AT : 0n;
      for (let clobbered = 1; clobbered <= 5; clobbered += 1) r[clobbered] = 0n;
    } else if (op === 0xdb) {
      const where = Number(get(dst) - MAP_AT) + offset;
      map.setBigUint64(where, map.getBigUint64(where, true) + get(src), true);
    } else if (op === 0x95) return { verdict: Number(get(0)), map };
    else throw new Error(`opcode 0x${op.toString(16)} at ${at / 8 - 1}`);
  }
  throw new Error(`no end after ${STEPS_MAX} instructions`);
}

function swapped(value: bigint, bytes: number): bigint {
  let out = 0n;
  for (let index = 0; index < bytes; index += 1) out = (out << 8n) | ((value >> BigInt(8 * index)) & 0xffn);
  return out;
}
