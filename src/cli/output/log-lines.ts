/** Merges the live output of a sandbox's console and its VMM for one reader. Pure. */
import { plainLines } from '../../base/text/plain.ts';
import type { LogChunk } from '../../sandbox/contract/control.ts';

/** Longer lines of the VMM are split, characters. */
const LINE_CHARACTERS_MAX = 4096;

export interface LogView {
  /** Only the VMM's output, unchanged. Otherwise the console, with whole lines of the VMM marked. */
  readonly onlyVmm: boolean;
  /** Replace control characters, for a terminal. */
  readonly plain: boolean;
}

export class LogLines {
  readonly #view: LogView;
  #isAtLineStart = true;
  /** Incomplete line of the VMM. */
  #line = '';
  /** `\r` that may be the first half of a line end. */
  #held = '';

  constructor(view: LogView) {
    this.#view = view;
  }

  /** @returns the text to print now */
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

  /** @returns the rest of the text */
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
