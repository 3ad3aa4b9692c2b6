/** `run -it` on a real pseudo-terminal: the guest's serial console, unchanged keys, the terminal restored. */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROOT } from '../support/cli.ts';
import { onTerminal } from '../support/terminal.ts';

const runOnTerminal = () => onTerminal([join(ROOT, 'neurovisor'), 'run', '-it'], { NEUROVISOR_UPSTREAM: 'engine' });

describe('run -it', () => {
  it('keys and Ctrl-C go to the guest, which knows the size; Ctrl-] q leaves and restores the terminal', async () => {
    const terminal = runOnTerminal();
    await terminal.sees('user@nv-');
    terminal.type('id -un; stty size; tty\r');
    await terminal.sees('33 111\n/dev/ttyS0');
    // One process that reports that it runs: before it has the terminal, the shell would take the Ctrl-C.
    terminal.type("sh -c 'echo started-$((40 + 2)); exec sleep 600'\r");
    await terminal.sees('started-42');
    terminal.type('\x03');
    terminal.type('echo after-$((40 + 2))\r');
    await terminal.sees('after-42');
    terminal.type('\x1dq');
    expect(await terminal.ended).toBe(0);
    expect(terminal.screen()).toContain('terminal restored: True');
  });

  it('`exit` in the shell ends the sandbox', async () => {
    const terminal = runOnTerminal();
    await terminal.sees('user@nv-');
    terminal.type('exit\r');
    expect(await terminal.ended).toBe(0);
    expect(terminal.screen()).toContain('terminal restored: True');
  });
});
