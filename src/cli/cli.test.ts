import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { testCli } from '../../test/support/test-cli.ts';
import type { Cli } from './cli.ts';

async function closeOutput(cli: Cli, code: string): Promise<void> {
  cli.stdout.destroy(Object.assign(new Error(code), { code }));
  await turn();
}

describe('Cli, logs', () => {
  it.each([
    [{}, 'neurovisor error: c\n'],
    [{ NEUROVISOR_LOG: '' }, 'neurovisor error: c\n'],
    [{ NEUROVISOR_LOG: 'warn' }, 'neurovisor warn: b\nneurovisor error: c\n'],
    [{ NEUROVISOR_LOG: 'info' }, 'neurovisor info: a\nneurovisor warn: b\nneurovisor error: c\n'],
  ])('planeLog with %j shows %j', (env, expected) => {
    const { cli, stderr } = testCli({ env });
    cli.planeLog.info('a');
    cli.planeLog.warn('b');
    cli.planeLog.error('c');
    expect(stderr()).toBe(expected);
  });
});

describe('Cli, closed output', () => {
  it('EPIPE ends the command as SIGPIPE does, once', async () => {
    const { cli } = testCli();
    let ends = 0;
    cli.onSignal(() => expect.unreachable(), null);
    cli.onEnd(() => {
      ends += 1;
    });
    await closeOutput(cli, 'EPIPE');
    cli.stderr.destroy(Object.assign(new Error('EPIPE'), { code: 'EPIPE' }));
    await turn();
    expect([ends, cli.isOutputClosed, cli.cancelled.aborted]).toEqual([1, true, true]);
    expect(cli.signalStatus).toBe(141);
  });

  it('ignoreClosedOutput: a daemon continues', async () => {
    const { cli } = testCli();
    cli.ignoreClosedOutput();
    await closeOutput(cli, 'EPIPE');
    expect([cli.isOutputClosed, cli.cancelled.aborted]).toEqual([false, false]);
    expect(cli.signalStatus).toBeNull();
  });
});
