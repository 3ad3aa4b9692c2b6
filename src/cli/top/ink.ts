/** Colours, and text that is fit for a terminal. Pure. */
import { stripVTControlCharacters, styleText } from 'node:util';

export type Ink = Parameters<typeof styleText>[0];
export type Inked = (style: Ink, text: string) => string;

export function inked(colour: boolean): Inked {
  return (style, text) => (colour ? styleText(style, text, { validateStream: false }) : text);
}

/** Words of a daemon: nothing that could steer the terminal. */
export function plain(text: string): string {
  return stripVTControlCharacters(text).replaceAll(/\p{Cc}/gu, ' ');
}

export function rateText(rate: number | null): string {
  if (rate === null) return '–';
  return rate < 10 ? rate.toFixed(1) : rate.toFixed(0);
}

/** To so many columns; colours end where it is cut. */
export function cut(line: string, columns: number): string {
  if (stripVTControlCharacters(line).length <= columns) return line;
  let [width, out] = [0, ''];
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the escape sequences of our own colours
  for (const [part = ''] of line.matchAll(/\x1b\[[0-9;]*m|./gsu)) {
    const isColour = part.startsWith('\x1b');
    if (!isColour && width >= columns) continue;
    width += isColour ? 0 : 1;
    out += part;
  }
  return out;
}
