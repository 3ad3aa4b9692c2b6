/** Colors, and text that is safe for a terminal. Pure. */
import { stripVTControlCharacters, styleText } from 'node:util';
import { plain } from '../../base/text/plain.ts';

export type Ink = Parameters<typeof styleText>[0];
export type Inked = (style: Ink, text: string) => string;

export function inked(color: boolean): Inked {
  return (style, text) => (color ? styleText(style, text, { validateStream: false }) : text);
}

/** Removes escape sequences and replaces control characters of a daemon's text. */
export function safeText(text: string): string {
  return plain(stripVTControlCharacters(text));
}

export function rateText(rate: number | null): string {
  if (rate === null) return '–';
  return rate < 10 ? rate.toFixed(1) : rate.toFixed(0);
}

/** Cuts a line to a width; color codes are kept. */
export function cut(line: string, columns: number): string {
  if (stripVTControlCharacters(line).length <= columns) return line;
  let [width, out] = [0, ''];
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the escape sequences of our own colors
  for (const [part = ''] of line.matchAll(/\x1b\[[0-9;]*m|./gsu)) {
    const isColor = part.startsWith('\x1b');
    if (!isColor && width >= columns) continue;
    width += isColor ? 0 : 1;
    out += part;
  }
  return out;
}
