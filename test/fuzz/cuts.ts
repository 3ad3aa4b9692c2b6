/** Streams come in any pieces; a parser may not care. */
import { randomFrom } from '../support/run-seed.ts';
import { must } from './target.ts';

/** Longer streams are not tried byte by byte. */
const SINGLE_BYTES_MAX = 600;
const SIZES = [1, 2, 3, 5, 9, 17, 60, 250];

/**
 * @param read what becomes of a stream that comes in these pieces, as text
 * @returns what becomes of it when it comes whole, which is the same
 */
export function sameHoweverCut(bytes: Buffer, read: (pieces: readonly Buffer[]) => string): string {
  const whole = read([bytes]);
  const cuts = [pieces(bytes)];
  if (bytes.length <= SINGLE_BYTES_MAX) cuts.push([...bytes].map((byte) => Buffer.of(byte)));
  for (const cut of cuts) {
    const result = read(cut);
    must(result === whole, `cut matters:\n${whole}\n${result}`);
  }
  return whole;
}

/** Cut at places that depend on the bytes alone. */
export function pieces(bytes: Buffer): readonly Buffer[] {
  const random = randomFrom(bytes.reduce((sum, byte) => (Math.imul(sum, 31) + byte) | 0, 7));
  const cut: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const size = SIZES[Math.floor(random() * SIZES.length)] ?? 1;
    cut.push(bytes.subarray(at, at + size));
    at += size;
  }
  return cut;
}
