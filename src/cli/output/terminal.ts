/**
 * A terminal in raw mode: every key goes to the guest, Ctrl-C too; `Ctrl-] q` leaves. `run -it`, `exec -t`
 * and `shell` use it. The terminal is restored however this ends.
 */
import { ReadStream } from 'node:tty';
import type { TerminalSize } from '../../machine/guest/link.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';

const ESCAPE = 0x1d; // Ctrl-]
const HELP = '\r\n[Ctrl-] q: leave · Ctrl-] Ctrl-]: send Ctrl-]]\r\n';

/** Separates escape commands from typed bytes for the guest. Pure. */
export class EscapeFilter {
  #armed = false;

  receive(typed: Uint8Array): { forGuest: Uint8Array; leave: boolean; help: boolean } {
    const forGuest: number[] = [];
    let help = false;
    for (const byte of typed) {
      if (!this.#armed) {
        if (byte === ESCAPE) this.#armed = true;
        else forGuest.push(byte);
        continue;
      }
      this.#armed = false;
      if (byte === 0x71 || byte === 0x51) {
        return { forGuest: Uint8Array.from(forGuest), leave: true, help };
      }
      if (byte === ESCAPE) forGuest.push(byte);
      else help = true;
    }
    return { forGuest: Uint8Array.from(forGuest), leave: false, help };
  }
}

/** Checked before anything starts. @throws UsageError if standard input is not a terminal */
export function requireTerminal(cli: Cli, option: string, remedy = `omit ${option} in a pipe`): ReadStream {
  if (cli.stdin instanceof ReadStream) return cli.stdin;
  throw new UsageError(`${option} needs a terminal on standard input`, remedy);
}

export function terminalSize(cli: Cli): TerminalSize {
  const { columns, rows } = cli.stdout;
  // Not `??`: a terminal whose size was never set has 0 of each.
  return { cols: columns || 80, rows: rows || 24 };
}

export interface TerminalHandlers {
  onKeys(keys: Uint8Array): void;
  onResize(size: TerminalSize): void;
}

/**
 * Runs `body` with the terminal in raw mode.
 * @param body gets a promise that resolves when the user leaves
 */
export async function inRawMode<T>(
  cli: Cli,
  stdin: ReadStream,
  handlers: TerminalHandlers,
  body: (left: Promise<void>) => Promise<T>,
): Promise<T> {
  const left = Promise.withResolvers<void>();
  const filter = new EscapeFilter();
  const onData = (typed: Buffer): void => {
    const { forGuest, leave, help } = filter.receive(typed);
    if (forGuest.length > 0) handlers.onKeys(forGuest);
    if (help) cli.stderr.write(HELP);
    if (leave) left.resolve();
  };
  const onResize = (): void => handlers.onResize(terminalSize(cli));
  const restore = (): void => {
    stdin.setRawMode(false);
    stdin.off('data', onData);
    stdin.pause();
    process.off('SIGWINCH', onResize);
    process.off('exit', restore);
  };
  process.once('exit', restore);
  process.on('SIGWINCH', onResize);
  stdin.setRawMode(true);
  stdin.on('data', onData);
  try {
    return await body(left.promise);
  } finally {
    restore();
  }
}
