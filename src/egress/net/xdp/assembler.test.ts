import { describe, expect, it } from 'vitest';
import { Assembler } from './assembler.ts';

const hex = (bytes: Uint8Array): string[] => Buffer.from(bytes).toString('hex').match(/.{16}/g) ?? [];

describe('Assembler', () => {
  it('encodes instructions as RFC 9669 says', () => {
    const code = new Assembler()
      .loadWord(2, 1, 4) // r2 = *(u32 *)(r1 + 0x4)
      .loadHalf(5, 2, 12) // r5 = *(u16 *)(r2 + 0xc)
      .swap(5, 16) // r5 = be16 r5
      .move(4, 2) // r4 = r2
      .add(4, -14) // r4 += -0xe
      .jumpIfGreater(4, 3, 'out') // if r4 > r3 goto +0xe
      .move32(4, 5) // w4 = w5
      .and32(4, 0xffff_0000) // w4 &= -0x10000
      .jumpIfEqual32(4, 0xa9fe_0000, 'out') // if w4 == -0x56020000 goto +0xb
      .jumpIfNotEqual32(4, 1, 'out') // if w4 != 0x1 goto +0xa
      .jump('out') // goto +0x9
      .storeOnStack(4, -4) // *(u32 *)(r10 - 0x4) = r4
      .lookUp(7, -4) // r1 = map of descriptor 7; r2 = r10; r2 += -0x4; call 1
      .jumpIfZero(0, 'out') // if r0 == 0x0 goto +0x2
      .set32(2, 1) // w2 = 0x1
      .atomicAdd64(0, 8, 2) // lock *(u64 *)(r0 + 0x8) += r2
      .label('out')
      .exit()
      .assemble();
    expect(hex(code)).toEqual([
      '6112040000000000',
      '69250c0000000000',
      'dc05000010000000',
      'bf24000000000000',
      '07040000f2ffffff',
      '2d340e0000000000',
      'bc54000000000000',
      '540400000000ffff',
      '16040b000000fea9',
      '56040a0001000000',
      '0500090000000000',
      '634afcff00000000',
      '1811000007000000',
      '0000000000000000',
      'bfa2000000000000',
      '07020000fcffffff',
      '8500000001000000',
      '1500020000000000',
      'b402000001000000',
      'db20080000000000',
      '9500000000000000',
    ]);
  });

  it('refuses a label that is missing, before its jump or defined twice', () => {
    expect(() => new Assembler().jump('nowhere').assemble()).toThrow(RangeError);
    expect(() => new Assembler().label('back').jump('back').assemble()).toThrow(RangeError);
    expect(() => new Assembler().label('x').label('x')).toThrow(RangeError);
  });
});
