/**
 * Runs what `src/net/ebpf.ts` can write, without a kernel: an independent reading of RFC 9669 with addresses
 * that no real program has, so that a load outside the frame is an error as the verifier would have it.
 */

const FRAME_AT = 0x1_0000_0000n;
const CONTEXT_AT = 0x2_0000_0000n;
const MAP_AT = 0x3_0000_0000n;
const STEPS_MAX = 10_000;
const LOW_32 = 0xffff_ffffn;

export interface Run {
  readonly verdict: number;
  /** The value of the map afterwards. */
  readonly map: DataView;
}

export function interpret(program: Uint8Array, frame: Uint8Array, mapBytes: number): Run {
  const code = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const memory = new DataView(Uint8Array.from(frame).buffer);
  const map = new DataView(new ArrayBuffer(mapBytes));
  const r: bigint[] = Array.from({ length: 11 }, () => 0n);
  r[1] = CONTEXT_AT;
  const get = (register: number): bigint => r[register] ?? 0n;
  const load = (address: bigint, bytes: 2 | 4): bigint => {
    if (address === CONTEXT_AT) return FRAME_AT;
    if (address === CONTEXT_AT + 4n) return FRAME_AT + BigInt(frame.length);
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
    else if (op === 0x18) {
      r[dst] = MAP_AT + BigInt(code.getUint32(at + 4, true));
      at += 8;
    } else if (op === 0xdb) {
      const where = Number(get(dst) - MAP_AT);
      map.setBigUint64(where, map.getBigUint64(where, true) + get(src), true);
    } else if (op === 0x95) return { verdict: Number(get(0)), map };
    else throw new Error(`opcode 0x${op.toString(16)} at ${at / 8 - 1}`);
  }
  throw new Error(`no end after ${STEPS_MAX} instructions`);
}

function swapped(value: bigint, bytes: number): bigint {
  let out = 0n;
  for (let index = 0; index < bytes; index += 1)
    out = (out << 8n) | ((value >> BigInt(8 * index)) & 0xffn);
  return out;
}
