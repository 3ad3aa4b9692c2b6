/** Runs `./neurovisor` as a user does: in a separate process, with its streams collected. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

export const ROOT = join(import.meta.dirname, '../..');

export interface CliResult {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CliRun {
  readonly pid: number;
  readonly result: Promise<CliResult>;
  kill(signal: NodeJS.Signals): void;
  /** Resolves when stdout, or stderr, contains the text; rejects if the process ends before. */
  seen(text: string, stream?: 'stdout' | 'stderr'): Promise<void>;
}

export function cli(
  args: readonly string[],
  options: { env?: Record<string, string>; input?: string; cwd?: string } = {},
): CliRun {
  const child = spawn(join(ROOT, 'neurovisor'), args, {
    env: { ...process.env, NEUROVISOR_UPSTREAM: 'engine', NO_COLOR: '1', ...options.env },
    cwd: options.cwd,
    stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  });
  child.stdin?.end(options.input);
  let stdout = '';
  let stderr = '';
  const watchers = new Set<() => void>();
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    for (const watcher of watchers) watcher();
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    for (const watcher of watchers) watcher();
  });
  const result = new Promise<CliResult>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status, signal) => resolve({ status, signal, stdout, stderr }));
  });
  return {
    pid: child.pid ?? 0,
    result,
    kill: (signal) => void child.kill(signal),
    seen: (text, stream = 'stdout') =>
      new Promise((resolve, reject) => {
        const watcher = (): void => {
          if (!(stream === 'stdout' ? stdout : stderr).includes(text)) return;
          watchers.delete(watcher);
          resolve();
        };
        watchers.add(watcher);
        watcher();
        void result.then((end) =>
          reject(new Error(`ended ${end.status} before ${JSON.stringify(text)}: ${end.stderr}`)),
        );
      }),
  };
}
