/** A command on a pseudo-terminal of 33 rows and 111 columns, as a person uses it. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from './cli.ts';

/** Types once the awaited text appears. */
export function onTerminal(argv: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const child = spawn('python3', [join(ROOT, 'test/fixtures/on-terminal.py'), ...argv], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
  });
  let text = '';
  let seenTo = 0;
  const watchers = new Set<() => void>();
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk.replaceAll('\r', '');
    for (const watcher of watchers) watcher();
  });
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  return {
    pid: child.pid ?? 0,
    type: (keys: string) => void child.stdin.write(keys),
    /** Waits for the text in later output. */
    sees: (wanted: string) =>
      new Promise<void>((resolve, reject) => {
        const watcher = (): void => {
          const at = text.indexOf(wanted, seenTo);
          if (at < 0) return;
          seenTo = at + wanted.length;
          watchers.delete(watcher);
          resolve();
        };
        watchers.add(watcher);
        watcher();
        void ended.then(() => reject(new Error(`ended without "${wanted}": ${text}`)));
      }),
    ended,
    screen: () => text,
  };
}
