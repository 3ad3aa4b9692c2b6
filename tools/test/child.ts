/** Child processes of the test runner, with their output forwarded line by line. */
import { spawn } from 'node:child_process';
import { PACKAGE_DIR } from '../../src/base/package-dir.ts';

export interface Shell {
  readonly signal: AbortSignal;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly isTerminal: boolean;
  /** Accepts whole lines, or text of any length while only one program runs. */
  write(text: string): void;
}

/**
 * Runs a program in the root of the checkout.
 * @returns its exit status; 1 if a signal ended it
 */
export function runProgram(
  shell: Shell,
  argv: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>>; readonly onOutput?: (text: string) => void } = {},
): Promise<number> {
  const [file = '', ...args] = argv;
  // Vitest takes FORCE_COLOR with any value as a request for colors.
  const colors = shell.isTerminal ? { FORCE_COLOR: '1' } : { NO_COLOR: '1' };
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      cwd: PACKAGE_DIR,
      stdio: ['ignore', 'pipe', 'pipe'],
      signal: shell.signal,
      env: { ...shell.env, ...colors, ...options.env },
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        options.onOutput?.(text);
        shell.write(text);
      });
    }
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}

/** A shell whose lines begin with a label, for programs that run side by side. */
export function labeled(shell: Shell, label: string): Shell & { flush(): void } {
  let rest = '';
  const print = (lines: readonly string[]): void => {
    if (lines.length > 0) shell.write(lines.map((line) => `${label}${line}\n`).join(''));
  };
  return {
    ...shell,
    write(text) {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      print(lines);
    },
    flush() {
      if (rest !== '') print([rest]);
      rest = '';
    },
  };
}
