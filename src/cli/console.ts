/**
 * `run -it`: the guest's raw serial console on this terminal. Every key goes to the guest, Ctrl-C too;
 * `Ctrl-] q` leaves. The terminal is restored however this ends.
 */
import { ReadStream } from 'node:tty';
import { ignore } from '../base/ignore.ts';
import type { Supervisor } from '../sandbox/supervisor.ts';
import type { Cli } from './cli.ts';
import { UsageError } from './failure.ts';
import type { Script } from './script.ts';

const ESCAPE = 0x1d; // Ctrl-]
const HELP = '\r\n[Ctrl-] q: leave · Ctrl-] Ctrl-]: send Ctrl-]]\r\n';

/** Splits what is typed into what the guest gets and whether the user wants to leave. Pure. */
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

/** A login shell on the serial line; when it ends, the sandbox does. */
const CONSOLE_SHELL = [
  'setsid',
  '--ctty',
  '--wait',
  'sh',
  '-c',
  'cd /home/user && exec setpriv --reuid user --regid user --init-groups bash -i',
];

/** @returns the exit status: 0 after `exit`, `reboot` or the escape key */
export async function attachConsole(
  cli: Cli,
  sandbox: Supervisor,
  script: Script | null,
): Promise<number> {
  const terminal = sandbox.vm?.terminal;
  if (!terminal) throw new UsageError('this VMM has no interactive console');
  const stdin = requireTerminal(cli);
  const guest = sandbox.guest();
  if (script !== null) {
    await guest.files.write(script.filename, script.code);
    cli.stderr.write(`${script.filename} is in the guest's home directory\n`);
  }
  cli.stderr.write('connected to the serial console; Ctrl-] q leaves\n');
  const left = Promise.withResolvers<void>();
  const filter = new EscapeFilter();
  const onData = (typed: Buffer): void => {
    const { forGuest, leave, help } = filter.receive(typed);
    if (forGuest.length > 0) terminal.input.write(forGuest);
    if (help) cli.stderr.write(HELP);
    if (leave) left.resolve();
  };
  const resize = async (): Promise<void> => {
    const { columns = 80, rows = 24 } = cli.stdout as NodeJS.WriteStream;
    const argv = ['stty', '-F', '/dev/ttyS0', 'cols', `${columns}`, 'rows', `${rows}`];
    const stty = await guest.exec({ argv, user: 'root', stdin: false });
    await stty.exit;
  };
  const onResize = (): void => {
    resize().catch((error: unknown) => ignore(error, 'the console keeps its size'));
  };
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
  terminal.output.pipe(cli.stdout, { end: false });
  try {
    // The size first: the shell reads it when it starts.
    await resize();
    const shell = await guest.exec({
      argv: ['sh', '-c', `exec ${CONSOLE_SHELL.map(quote).join(' ')} </dev/ttyS0 >/dev/ttyS0 2>&1`],
      user: 'root',
      env: { TERM: cli.env['TERM'] ?? 'linux', HOME: '/home/user', USER: 'user' },
      stdin: false,
    });
    const ended = shell.exit.catch((error: unknown) => ignore(error, 'the sandbox ended first'));
    await Promise.race([left.promise, sandbox.ended, ended]);
  } finally {
    restore();
    terminal.output.unpipe(cli.stdout);
  }
  cli.stderr.write('\r\nconsole closed\n');
  const end = await sandbox.stop();
  return end.cause === 'vmm-crashed' ? 125 : 0;
}

/** Asked before anything boots. @throws UsageError when standard input is none */
export function requireTerminal(cli: Cli): ReadStream {
  if (cli.stdin instanceof ReadStream) return cli.stdin;
  throw new UsageError('-it needs a terminal on standard input', 'leave -it away in a pipe');
}

/** For `sh`: our own constants only, never a user's words. */
function quote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
