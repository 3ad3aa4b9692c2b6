/** Questions to the person at the terminal. */
import { open } from 'node:fs/promises';
import { createInterface } from 'node:readline/promises';
import { ReadStream } from 'node:tty';
import { ignore } from '../../base/ignore.ts';
import type { Cli } from '../cli.ts';

/** False: output or input is no terminal. */
export const hasQuestions = (cli: Cli): boolean =>
  !cli.json && cli.terminationStatus === null && cli.stdin.isTTY === true && cli.stderr.isTTY === true;

/** Anything but yes means no; so does the end of the input. */
export async function confirm(cli: Cli, question: string): Promise<boolean> {
  // Not standard input: the script may have read it to its end.
  const terminal = await open('/dev/tty', 'r');
  const input = new ReadStream(terminal.fd);
  // Without `terminal`, Ctrl-C stays a signal.
  const lines = createInterface({ input, output: cli.stderr, terminal: false });
  try {
    const closed = new Promise<string>((resolve) => lines.once('close', () => resolve('')));
    const answered = lines.question(question, { signal: cli.cancelled });
    answered.catch((error: unknown) => ignore(error, 'the race below reports it'));
    const answer = await Promise.race([answered, closed]);
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    lines.close();
    input.destroy();
    await terminal.close().catch((error: unknown) => ignore(error, 'the stream has closed it'));
  }
}
