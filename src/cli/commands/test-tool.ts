/** A tool that `neurovisor test` runs, with its output passed on. */
import { spawn } from 'node:child_process';
import { SOURCE_DIR } from '../../runtime/runtime.ts';
import type { Cli } from '../cli.ts';

/** @returns its exit status; 1 where a signal ended it. It ends with this command. */
export function tool(
  cli: Cli,
  argv: readonly string[],
  onOutput: (text: string) => void = () => undefined,
): Promise<number> {
  const [file = '', ...args] = argv;
  // Vitest takes FORCE_COLOR with any value for a wish for colours.
  const colors = cli.stdout.isTTY ? { FORCE_COLOR: '1' } : { NO_COLOR: '1' };
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      cwd: SOURCE_DIR,
      stdio: ['ignore', 'pipe', 'pipe'],
      signal: cli.cancelled,
      env: { ...cli.env, ...colors },
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        onOutput(text);
        cli.stdout.write(text);
      });
    }
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}
