/**
 * `run -it`: the guest's raw serial console on this terminal. Every key goes to the guest, Ctrl-C too;
 * `Ctrl-] q` leaves.
 */
import { ignore } from '../../base/ignore.ts';
import type { TerminalSize } from '../../guest/link.ts';
import type { Supervisor } from '../../sandbox/vm/supervisor.ts';
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

/** @returns the exit status: 0 after `exit`, `reboot` or the escape key */
export async function attachConsole(
  cli: Cli,
  sandbox: Supervisor,
  script: { readonly filename: string; readonly code: string } | null,
): Promise<number> {
  const terminal = sandbox.vm?.terminal;
  if (!terminal) throw new UsageError('this VMM has no interactive console');
  const stdin = requireTerminal(cli, '-it');
  const guest = sandbox.guest();
  if (script !== null) {
    await guest.files.write(script.filename, script.code);
    cli.stderr.write(`${script.filename} is in the guest's home directory\n`);
  }
  cli.stderr.write('connected to the serial console; Ctrl-] q leaves\n');
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
  try {
    await inRawMode(cli, stdin, handlers, async (left) => {
      // The size first: the shell reads it when it starts.
      await resize(terminalSize(cli));
      const shell = await guest.exec({
        argv: [
          'sh',
          '-c',
          `exec ${CONSOLE_SHELL.map(quote).join(' ')} </dev/ttyS0 >/dev/ttyS0 2>&1`,
        ],
        user: 'root',
        env: { TERM: cli.env['TERM'] ?? 'linux', HOME: '/home/user', USER: 'user' },
        stdin: false,
      });
      const ended = shell.exit.catch((error: unknown) => ignore(error, 'the sandbox ended first'));
      await Promise.race([left, sandbox.ended, ended]);
    });
  } finally {
    terminal.output.unpipe(cli.stdout);
  }
  cli.stderr.write('\r\nconsole closed\n');
  const end = await sandbox.stop();
  if (end.cause === 'host-disk-full') cli.stderr.write(`neurovisor: ${end.detail}\n`);
  const isHosts = ['vmm-crashed', 'vmm-killed', 'host-oom', 'host-disk-full', 'seccomp-violation'];
  return isHosts.includes(end.cause) ? 125 : 0;
}

/** For `sh`: our own constants only, never a user's words. */
function quote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
