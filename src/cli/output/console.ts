/**
 * `run -it`: the guest's raw serial console on this terminal. Every key goes to the guest, Ctrl-C too;
 * `Ctrl-] q` leaves.
 */
import { ignore } from '../../base/ignore.ts';
import type { TerminalSize } from '../../machine/guest/link.ts';
import type { LocalControlPlane } from '../../sandbox/plane/control-plane.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { inRawMode, requireTerminal, terminalSize } from './terminal.ts';

/** A login shell on the serial line; when it ends, the sandbox does. */
const CONSOLE_SHELL = [
  'setsid',
  '--ctty',
  '--wait',
  'sh',
  '-c',
  'cd /home/user && exec setpriv --reuid user --regid user --init-groups bash -i',
];

/** Resolves after `exit`, `reboot`, the escape key, or any other end of the sandbox. */
export async function attachConsole(
  cli: Cli,
  control: Pick<LocalControlPlane, 'events' | 'guest' | 'terminal'>,
  id: string,
  script: { readonly filename: string; readonly code: string } | null,
): Promise<void> {
  const terminal = await control.terminal(id);
  if (terminal === null) throw new UsageError('this VMM has no interactive console');
  const stdin = requireTerminal(cli, '-it');
  const guest = await control.guest(id);
  if (script !== null) {
    await guest.files.write(script.filename, script.code);
    cli.stderr.write(`copied ${script.filename} to the home directory of the guest\n`);
  }
  cli.stderr.write('connected to the serial console; press Ctrl-] q to leave\n');
  const resize = async ({ cols, rows }: TerminalSize): Promise<void> => {
    const argv = ['stty', '-F', '/dev/ttyS0', 'cols', `${cols}`, 'rows', `${rows}`];
    const stty = await guest.exec({ argv, user: 'root', stdin: false });
    await stty.exit;
  };
  const handlers = {
    onKeys: (keys: Uint8Array) => void terminal.input.write(keys),
    onResize: (size: TerminalSize) => {
      resize(size).catch((error: unknown) => ignore(error, 'the console keeps its size'));
    },
  };
  terminal.output.pipe(cli.stdout, { end: false });
  const closer = new AbortController();
  try {
    await inRawMode(cli, stdin, handlers, async (left) => {
      // The size first: the shell reads it when it starts.
      await resize(terminalSize(cli));
      const shell = await guest.exec({
        argv: ['sh', '-c', `exec ${CONSOLE_SHELL.map(quote).join(' ')} </dev/ttyS0 >/dev/ttyS0 2>&1`],
        user: 'root',
        env: { TERM: cli.env['TERM'] ?? 'linux', HOME: '/home/user', USER: 'user' },
        stdin: false,
      });
      const ended = shell.exit.catch((error: unknown) => ignore(error, 'the sandbox ended first'));
      await Promise.race([left, untilEnd(control, id, closer.signal), ended]);
    });
  } finally {
    closer.abort();
    terminal.output.unpipe(cli.stdout);
  }
  cli.stderr.write('\r\nconsole closed\n');
}

async function untilEnd(control: Pick<LocalControlPlane, 'events'>, id: string, signal: AbortSignal): Promise<void> {
  for await (const { type } of control.events(id, { signal })) if (type === 'end') return;
}

/** For `sh`: our own constants only, never a user's words. */
function quote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
