/** Puts what a sandbox and its VMM write, as it comes, together for one reader. Pure. */
import type { LogChunk } from '../../sandbox/control.ts';

/** A line of the VMM that is longer is cut in two, characters. */
const LINE_CHARACTERS_MAX = 4096;

/** On a terminal nothing of it steers that. */
export function plainLines(text: string): string {
  return text
    .replaceAll('\r\n', '\n')
    .replaceAll(/[\p{Cc}\p{Cf}]/gu, (char) => (char === '\n' || char === '\t' ? char : '?'));
}

export interface LogView {
  /** Only what the VMM says, as it is; else the console as it is, and whole lines of the VMM marked. */
  readonly onlyVmm: boolean;
  /** For a terminal. */
  readonly plain: boolean;
}

export class LogLines {
  readonly #view: LogView;
  #isAtLineStart = true;
  /** Of the VMM, not whole yet. */
  #line = '';
  /** `\r`, that may be the first half of an end of line. */
  #held = '';

  constructor(view: LogView) {
    this.#view = view;
  }

  /** @returns what is to be printed now */
  add({ source, text }: LogChunk): string {
    const { onlyVmm } = this.#view;
    if (onlyVmm) return source === 'vmm' ? this.#print(text) : '';
    if (source === 'console') return this.#print(text);
    const lines = (this.#line + text).split('\n');
    this.#line = lines.pop() ?? '';
    if (this.#line.length > LINE_CHARACTERS_MAX) {
      lines.push(this.#line);
      this.#line = '';
    }
    return lines.map((line) => this.#marked(line)).join('');
  }

  /** What is left at the end. */
  end(): string {
    const line = this.#line === '' ? '' : this.#marked(this.#line);
    return line + (this.#isAtLineStart ? '' : '\n');
  }

  #marked(line: string): string {
    const begin = this.#isAtLineStart ? '' : '\n';
    this.#isAtLineStart = true;
    this.#held = '';
    return `${begin}[vmm] ${this.#view.plain ? plainLines(`${line}\n`) : `${line}\n`}`;
  }

  #print(text: string): string {
    const { plain } = this.#view;
    const whole = this.#held + text;
    this.#held = plain && whole.endsWith('\r') ? '\r' : '';
    const shown = plain ? plainLines(whole.slice(0, whole.length - this.#held.length)) : whole;
    if (shown !== '') this.#isAtLineStart = shown.endsWith('\n');
    return shown;
  }
}
