import { describe, expect, it } from 'vitest';
import { interpret } from './interpret.ts';

const program = (...instructions: [code: number, jt: number, jf: number, k: number][]) => {
  const view = new DataView(new ArrayBuffer(instructions.length * 8));
  for (const [index, [code, jt, jf, k]] of instructions.entries()) {
    view.setUint16(index * 8, code, true);
    view.setUint8(index * 8 + 2, jt);
    view.setUint8(index * 8 + 3, jf);
    view.setUint32(index * 8 + 4, k, true);
  }
  return new Uint8Array(view.buffer);
};
const call = { arch: 0xc000_003e, number: 5, args: [1n, 0xffff_ffff_0000_0002n] };

describe('interpret', () => {
  it('reads number, architecture and argument halves as unsigned', () => {
    const word = (offset: number) =>
      interpret(program([0x20, 0, 0, offset], [0x35, 1, 0, 0xffff_ffff], [0x06, 0, 0, 1], [0x06, 0, 0, 2]), call);
    expect(word(0)).toEqual({ word: 1, steps: 3 });
    expect(word(28)).toEqual({ word: 2, steps: 3 });
    expect(word(24)).toEqual({ word: 1, steps: 3 });
  });

  it('refuses programs that the kernel refuses', () => {
    const end: [number, number, number, number] = [0x06, 0, 0, 0];
    const refused: [string, Uint8Array][] = [
      ['0 instructions', new Uint8Array()],
      ['1.5 instructions', new Uint8Array(12)],
      ['4097 instructions', program(...Array(4097).fill(end))],
      ['goes past the end', program([0x15, 1, 0, 0], end)],
      ['goes past the end', program([0x05, 0, 0, 0xffff_ffff], end)],
      ['goes past the end', program([0x20, 0, 0, 0])],
      ['loads from 64', program([0x20, 0, 0, 64], end)],
      ['loads from 2', program([0x20, 0, 0, 2], end)],
      ['has code 40', program([0x28, 0, 0, 0], end)],
    ];
    for (const [message, bytes] of refused) expect(() => interpret(bytes, call)).toThrow(message);
  });
});
