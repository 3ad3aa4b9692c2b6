/**
 * The alternate screen of a terminal, its keys and its size (io). The terminal is restored however the process ends,
 * except by SIGKILL.
 */
import type { ReadStream } from 'node:tty';
import { tryOr } from '../../base/ignore.ts';
import type { Size } from './picture.ts';

const ENTER = '\x1b[?1049h\x1b[?25l\x1b[?7l';
const LEAVE = '\x1b[?7h\x1b[?25h\x1b[?1049l';
/** Synchronized update; terminals without support ignore it. */
const BEGIN_UPDATE = '\x1b[?2026h';
const END_UPDATE = '\x1b[?2026l';

export interface ScreenHandlers {
  onKeys(keys: string): void;
  onResize(): void;
}

export class Screen {
  readonly #stdout: NodeJS.WriteStream;
  readonly #stdin: ReadStream | null;
  readonly #handlers: ScreenHandlers;
  #shown: readonly string[] = [];
  #isOpen = true;
  readonly #onData = (typed: Buffer): void => this.#handlers.onKeys(typed.toString());
  readonly #onResize = (): void => {
    this.#shown = [];
    this.#handlers.onResize();
  };
  readonly #onExit = (): void => this.close();
  /** During a stop (`kill -STOP`), another program may have changed the terminal. */
  readonly #onContinue = (): void => {
    this.#stdin?.setRawMode(true);
    this.#stdout.write(ENTER);
    this.#onResize();
  };

  /** @param stdin null: no keys */
  constructor(stdout: NodeJS.WriteStream, stdin: ReadStream | null, handlers: ScreenHandlers) {
    this.#stdout = stdout;
    this.#stdin = stdin;
    this.#handlers = handlers;
    process.once('exit', this.#onExit);
    process.on('SIGCONT', this.#onContinue);
    stdout.on('resize', this.#onResize);
    stdin?.setRawMode(true);
    stdin?.on('data', this.#onData);
    stdout.write(ENTER);
  }

  get size(): Size {
    const { columns, rows } = this.#stdout;
    return { columns: columns || 80, rows: rows || 24 };
  }

  /** Writes only changed lines. A slow reader misses frames, but not the newest. */
  show(lines: readonly string[]): void {
    if (!this.#isOpen || this.#stdout.writableNeedDrain) return;
    const changes = lines.flatMap((line, index) =>
      line === this.#shown[index] ? [] : [`\x1b[${index + 1};1H${line}\x1b[0m\x1b[K`],
    );
    const clear = this.#shown.length === lines.length ? '' : '\x1b[2J';
    this.#shown = lines;
    if (changes.length > 0) {
      this.#stdout.write(BEGIN_UPDATE + clear + changes.join('') + END_UPDATE);
    }
  }

  /** Idempotent. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    process.off('exit', this.#onExit);
    process.off('SIGCONT', this.#onContinue);
    this.#stdout.off('resize', this.#onResize);
    this.#stdin?.off('data', this.#onData);
    tryOr(undefined, 'the terminal is gone', () => this.#stdin?.setRawMode(false));
    this.#stdin?.pause();
    this.#stdout.write(LEAVE);
  }
}
