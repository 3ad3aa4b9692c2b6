/** Cleans texts of requests and answers for the log: removes media and secrets, and cuts what is too long. Pure. */
import { createHash } from 'node:crypto';
import type { ContentMode } from '../../../base/text/content-mode.ts';
import { redact } from './redact.ts';

export interface CleanText {
  readonly text: string;
  readonly isCut: boolean;
}

/** Length in UTF-16 units of the longest head of a text that fits into `bytesMax` bytes of UTF-8. */
export function fittingHead(text: string, bytesMax: number): number {
  let length = Math.min(text.length, bytesMax);
  if (Buffer.byteLength(text.slice(0, length)) > bytesMax) {
    const { read } = new TextEncoder().encodeInto(text.slice(0, length), new Uint8Array(bytesMax));
    length = read;
  }
  return isPairAt(text, length) ? length - 1 : length;
}

/**
 * Returns at most `bytesMax` bytes of a text, not counting marks; what is cut is in its middle.
 * @param isWhole false if more of the text exists: then its end is cut, and its last word is dropped, since it may be a
 * part of a secret
 */
export function cleanText(text: string, mode: ContentMode, bytesMax: number, isWhole = true): CleanText {
  const own = withoutMedia(text.toWellFormed());
  const take = (from: number, to: number): string =>
    mode === 'redacted' ? redact(own, from, to) : own.slice(from, to);
  if (own.length <= bytesMax && Buffer.byteLength(own) <= bytesMax) {
    const end = isWhole || mode !== 'redacted' ? own.length : endOfWords(own);
    return { text: take(0, end), isCut: !isWhole };
  }
  if (!isWhole) return { text: take(0, fittingHead(own, bytesMax)), isCut: true };
  const head = fittingHead(own, Math.floor(bytesMax / 2));
  const tail = Math.max(head, own.length - fittingTail(own, Math.floor(bytesMax / 2)));
  const mark = `[${tail - head} characters cut]`;
  return { text: take(0, head) + mark + take(tail, own.length), isCut: true };
}

function endOfWords(text: string): number {
  let end = text.length;
  while (end > 0 && !/\s/.test(text.charAt(end - 1))) end -= 1;
  return end;
}

function fittingTail(text: string, bytesMax: number): number {
  let bytes = 0;
  let length = 0;
  while (length < text.length) {
    const code = text.charCodeAt(text.length - length - 1);
    // Each half of a surrogate pair counts as two of the pair's four bytes.
    const more = code < 0x80 ? 1 : code < 0x800 || (code >= 0xd800 && code < 0xe000) ? 2 : 3;
    if (bytes + more > bytesMax) break;
    bytes += more;
    length += 1;
  }
  return isPairAt(text, text.length - length) ? length - 1 : length;
}

function isPairAt(text: string, at: number): boolean {
  return (text.charCodeAt(at) & 0xfc00) === 0xdc00 && (text.charCodeAt(at - 1) & 0xfc00) === 0xd800;
}

const DATA_URL =
  /data:([\w.+-]{1,40}\/[\w.+-]{1,60}(?:;[\w.+-]{1,40}=[\w.+-]{1,60}){0,4});base64,([\w+/-]{16,}={0,2})/g;
/** A text of at least this many base64 characters and nothing else is a file, whatever field it is in. */
const BARE_CHARACTERS_MIN = 1024;
const BARE = /^[\w+/-]+={0,2}$/;

export function withoutMedia(text: string): string {
  if (text.length >= BARE_CHARACTERS_MIN && BARE.test(text)) return described('file', text);
  if (!text.includes('data:')) return text;
  return text.replaceAll(DATA_URL, (_, type: string, data: string) => described(type, data));
}

function described(type: string, base64: string): string {
  const bytes = Buffer.from(base64, 'base64');
  const hash = createHash('sha256').update(bytes).digest('hex');
  return `[${type}: ${bytes.length} bytes, sha256 ${hash}]`;
}
