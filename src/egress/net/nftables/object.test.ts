import { describe, expect, it } from 'vitest';
import { dumpNftObjects, getNftObject, parseNftObject } from './object.ts';

/** Answer of Linux 6.18 for `counter inet neurovisor seen_abc` with 7 packets and 1,234 bytes. */
const bytes = (hex: string): Uint8Array => new Uint8Array(Buffer.from(hex.replaceAll(' ', ''), 'hex'));
const HEADER = '01 00 00 02';
const TABLE = '0f00 0100 6e6575726f7669736f7200 00';
const NAME = '0d00 0200 7365656e5f61626300 000000';
const COUNTER_TYPE = '0800 0300 00000001';
const COUNTER_DATA = '1c00 0480  0c00 0100 00000000000004d2  0c00 0200 0000000000000007';
const QUOTA_TYPE = '0800 0300 00000002';
const QUOTA_DATA = '2400 0480  0c00 0100 0000000000002710  0800 0200 00000001  0c00 0400 000000000000001e';

describe('parseNftObject', () => {
  it('returns the form that `nft -j list` prints, for a counter and a quota', () => {
    expect(parseNftObject(bytes(HEADER + TABLE + NAME + COUNTER_TYPE + COUNTER_DATA))).toEqual({
      counter: { family: 'inet', name: 'seen_abc', table: 'neurovisor', packets: 7, bytes: 1234 },
    });
    expect(parseNftObject(bytes(HEADER + TABLE + NAME + QUOTA_TYPE + QUOTA_DATA))).toEqual({
      quota: { family: 'inet', name: 'seen_abc', table: 'neurovisor', bytes: 10_000, used: 30 },
    });
  });
  it('ignores objects of another family, table or kind', () => {
    const other = '0a00 0100 6f7468657200 0000';
    expect(parseNftObject(bytes(HEADER + other + NAME + COUNTER_TYPE + COUNTER_DATA))).toBeUndefined();
    expect(parseNftObject(bytes(`02 00 00 02${TABLE}${NAME}${COUNTER_TYPE}${COUNTER_DATA}`))).toBeUndefined();
    const limit = '0800 0300 00000004';
    expect(parseNftObject(bytes(HEADER + TABLE + NAME + limit + COUNTER_DATA))).toBeUndefined();
  });
  it('refuses or ignores an object that is truncated anywhere', () => {
    const whole = bytes(HEADER + TABLE + NAME + COUNTER_TYPE + COUNTER_DATA);
    for (let length = 0; length < whole.length; length += 1) {
      try {
        expect(parseNftObject(whole.subarray(0, length))).toBeUndefined();
      } catch (error) {
        expect(error).toMatchObject({ code: 'malformed' });
      }
    }
  });
});

describe('getNftObject, dumpNftObjects', () => {
  it('name the table and the kind, and getNftObject one object', () => {
    const hex = (body: Uint8Array): string => Buffer.from(body).toString('hex');
    const plain = (text: string): string => text.replaceAll(' ', '');
    expect(hex(getNftObject('counter', 'seen_abc').body)).toBe(plain(`01 00 00 00${TABLE}${NAME}${COUNTER_TYPE}`));
    expect(hex(dumpNftObjects('quota').body)).toBe(plain(`01 00 00 00${TABLE}${QUOTA_TYPE}`));
  });
});
