/** Blocks of IPv4 addresses, and their differences. Pure. */
import { isIPv4 } from 'node:net';

export interface Block {
  readonly base: number;
  /** 0 … 32. */
  readonly bits: number;
}

const BITS_MAX = 32;
const sizeOf = ({ bits }: Block): number => 2 ** (BITS_MAX - bits);

/** `null` if it is no IPv4 address or block. */
export function parseBlock(text: string): Block | null {
  const [address = '', length = String(BITS_MAX), more] = text.split('/');
  if (!isIPv4(address) || !/^\d{1,2}$/.test(length) || more !== undefined) return null;
  const bits = Number(length);
  if (bits > BITS_MAX) return null;
  const number = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  const size = sizeOf({ base: 0, bits });
  return { base: number - (number % size), bits };
}

export function blockText({ base, bits }: Block): string {
  const parts = [24, 16, 8, 0].map((shift) => Math.floor(base / 2 ** shift) % 256);
  return `${parts.join('.')}/${bits}`;
}

const OCTET = '(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)';
/** How an address or a block such as `10.1.0.0/16` is written. */
export const BLOCK = new RegExp(`^${OCTET}(?:\\.${OCTET}){3}(?:/(?:3[0-2]|[12]?\\d))?$`);

/** True for an address, or a block without bits beyond its prefix, which no pattern can tell. */
export function isBlock(text: string): boolean {
  const block = parseBlock(text);
  return block !== null && [text, `${text}/${BITS_MAX}`].includes(blockText(block));
}

export function isWithin(inner: Block, outer: Block): boolean {
  return inner.bits >= outer.bits && inner.base >= outer.base && inner.base < outer.base + sizeOf(outer);
}

/** The fewest blocks, at most 32, that cover `block` without `hole`. */
export function without(block: Block, hole: Block): Block[] {
  if (isWithin(block, hole)) return [];
  if (!isWithin(hole, block)) return [block];
  const bits = block.bits + 1;
  const half = sizeOf({ base: 0, bits });
  return [block.base, block.base + half].flatMap((base) => without({ base, bits }, hole));
}
