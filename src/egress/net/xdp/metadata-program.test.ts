import { describe, expect, it } from 'vitest';
import { interpret } from '../../../../test/support/ebpf-interpreter.ts';
import { FRAMES, frameTo } from '../../../../test/support/metadata-frames.ts';
import { cidr } from '../addresses/addresses.ts';
import { METADATA_BLOCKS } from '../addresses/metadata.ts';
import { COUNTS_BYTES, metadataProgram, readDrops, XDP } from './metadata-program.ts';

const PROGRAM = metadataProgram(3);

function fate(frame: Uint8Array, program = PROGRAM): string {
  const { verdict, map } = interpret(program, frame, COUNTS_BYTES);
  const { metadata, unreadable } = readDrops(map);
  if (verdict === XDP.pass) return metadata + unreadable === 0 ? 'pass' : 'counted, but passed';
  if (verdict !== XDP.drop || metadata + unreadable !== 1) return `verdict ${verdict}`;
  return metadata === 1 ? 'metadata' : 'unreadable';
}

describe('metadataProgram', () => {
  it.each(FRAMES)('%s', (_what, frame, expected) => {
    expect(fate(frame)).toBe(expected);
  });

  it('drops the first and the last address of each block, and passes their neighbors', () => {
    for (const block of METADATA_BLOCKS) {
      const { family, base, prefix } = block;
      const size = 1n << BigInt((family === 4 ? 32 : 128) - prefix);
      const at = (value: bigint): string => fate(frameTo({ family, value }));
      expect([at(base), at(base + size - 1n)]).toEqual(['metadata', 'metadata']);
      expect([at(base - 1n), at(base + size)]).toEqual(['pass', 'pass']);
    }
  });

  it('a truncated frame is never read past its end, and never reaches what the whole one would not', () => {
    for (const [what, frame, whole] of FRAMES) {
      for (let length = 0; length < frame.length; length += 1) {
        const cut = fate(frame.subarray(0, length));
        expect([whole, 'unreadable'], `${what}, ${length} bytes`).toContain(cut);
      }
    }
  });

  it('drops, without counting, packets on a link that is not in the map', () => {
    const { verdict, map } = interpret(PROGRAM, frameTo('169.254.169.254'), COUNTS_BYTES, false);
    expect([verdict, readDrops(map)]).toEqual([XDP.drop, { metadata: 0, unreadable: 0 }]);
  });

  it('contains every given block', () => {
    const program = metadataProgram(3, [cidr('10.0.0.0/8')]);
    expect(fate(frameTo('10.1.2.3'), program)).toBe('metadata');
    expect(fate(frameTo('169.254.169.254'), program)).toBe('pass');
  });
});
