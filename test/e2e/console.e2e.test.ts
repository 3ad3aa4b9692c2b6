/** `run -it` on a real pseudo-terminal: the guest's serial console, keys as they are, the terminal restored. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROOT } from '../support/cli.ts';

/** Types when it sees what it waits for. */
function onTerminal() {
  const child = spawn(
    'python3',
    [join(ROOT, 'test/fixtures/on-terminal.py'), join(ROOT, 'neurovisor'), 'run', '-it'],
    { stdio: ['pipe', 'pipe', 'inherit'], env: { ...process.env, NEUROVISOR_UPSTREAM: 'engine' } },
  );
  let text = '';
  let seenTo = 0;
  const watchers = new Set<() => void>();
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk.replaceAll('\r', '');
    for (const watcher of watchers) watcher();
  });
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  return {
    type: (keys: string) => void child.stdin.write(keys),
    /** Waits for the text after what was seen before. */
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

describe('run -it', () => {
  it('keys go to the guest, Ctrl-C too; the size is known; Ctrl-] q leaves and restores', async () => {
    const terminal = onTerminal();
    await terminal.sees('user@nv-');
    terminal.type('id -un; stty size; tty\r');
    await terminal.sees('33 111\n/dev/ttyS0');
    terminal.type('sleep 600\r');
    await terminal.sees('sleep 600');
    await new Promise((resolve) => setTimeout(resolve, 500));
    terminal.type('\x03');
    terminal.type('echo after-$((40 + 2))\r');
    await terminal.sees('after-42');
    terminal.type('\x1dq');
    expect(await terminal.ended).toBe(0);
    expect(terminal.screen()).toContain('terminal restored: True');
  });

  it('`exit` in the shell ends the sandbox', async () => {
    const terminal = onTerminal();
    await terminal.sees('user@nv-');
    terminal.type('exit\r');
    expect(await terminal.ended).toBe(0);
    expect(terminal.screen()).toContain('terminal restored: True');
  });
});
