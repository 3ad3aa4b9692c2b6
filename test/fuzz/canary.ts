/** A planted bug: the fuzzer must find it, and no blind one can in the same time (2⁻⁸⁰ a run). */

import { must, target } from './target.ts';

const MAGIC = 0x6e76f00d;

export const canary = target(
  'canary',
  (bytes) => {
    if (bytes.length < 12 || bytes.readUInt32BE(0) !== MAGIC) return;
    if (bytes.toString('latin1', 4, 8) !== 'open') return;
    const size = bytes.readUInt16LE(8);
    must(size !== bytes.length, 'the planted bug');
  },
  { maxBytes: 256 },
);

/** A planted hang. */
export const hangingCanary = target(
  'canary-hang',
  (bytes) => {
    while (bytes[0] === 0x6e && bytes[1] === 0x76);
  },
  { maxBytes: 16 },
);
