/** `shell` and `exec -t` on a real pseudo-terminal: raw keys, size, restored terminal. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOT } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';
import { onTerminal } from '../support/terminal.ts';

let daemon: FakeDaemon;
let id: string;

beforeAll(async () => {
  daemon = await startFakeDaemon();
  ({ id } = await daemon.control.create({}));
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
});

const onDaemon = (...words: string[]) =>
  onTerminal([process.execPath, join(ROOT, 'src/cli/main.ts'), ...words], daemon.env);

/** The only child of a process. */
async function childOf(pid: number): Promise<number> {
  const tasks = await readdir(`/proc/${pid}/task`);
  const lists = tasks.map((task) => readFile(`/proc/${pid}/task/${task}/children`, 'utf8'));
  return Number((await Promise.all(lists)).join(' ').trim().split(' ')[0]);
}

describe('shell', () => {
  it('runs bash at the terminal size, forwards Ctrl-C, and exits with the status of `exit N`', async () => {
    const terminal = onDaemon('shell', id);
    terminal.type('PS1="ready> "\r');
    await terminal.sees('ready> ');
    terminal.type('stty size; tty; echo $TERM-$((40 + 2))\r');
    await terminal.sees('33 111\n/dev/pts/');
    await terminal.sees('-42');
    // One process that reports that it runs: before it has the terminal, bash would get the Ctrl-C.
    terminal.type("sh -c 'echo started-$((40 + 2)); exec sleep 600'\r");
    await terminal.sees('started-42');
    terminal.type('\x03');
    await terminal.sees('ready> ');
    terminal.type('exit 7\r');
    expect(await terminal.ended).toBe(7);
    expect(terminal.screen()).toContain('terminal restored: True');
  });

  it('Ctrl-] q leaves a program that does not exit', async () => {
    const terminal = onDaemon('shell', id);
    terminal.type('PS1="ready> "; trap "" INT TERM HUP\r');
    await terminal.sees('ready> ');
    terminal.type('echo started-$((40 + 2)); sleep 600\r');
    await terminal.sees('started-42');
    terminal.type('\x1dq');
    await terminal.sees('detached; the program was killed');
    expect(await terminal.ended).toBe(0);
    expect(terminal.screen()).toContain('terminal restored: True');
  });
});

describe('exec -t', () => {
  it('gives the program a terminal and returns its status', async () => {
    const terminal = onDaemon('exec', '-t', id, '--', 'sh', '-c', 'test -t 0 && test -t 1 && exit 5');
    expect(await terminal.ended).toBe(5);
    expect(terminal.screen()).toContain('terminal restored: True');
  });

  it.each(['SIGTERM', 'SIGHUP'] as const)('%s restores the terminal', async (signal) => {
    const terminal = onDaemon('exec', '-t', id, '--', 'sh', '-c', 'echo started; sleep 600');
    await terminal.sees('started');
    process.kill(await childOf(terminal.pid), signal);
    expect(await terminal.ended).toBe(signal === 'SIGTERM' ? 143 : 129);
    expect(terminal.screen()).toContain('terminal restored: True');
  });
});
