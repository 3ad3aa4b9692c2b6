import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { testCli } from '../../test/support/test-cli.ts';
import { type Cli, SIGNAL_GRACE_MS } from './cli.ts';

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

describe('Cli, signals', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  function interrupted(signal: 'SIGINT' | 'SIGTERM') {
    const { cli } = testCli();
    const passed: string[] = [];
    cli.onSignal((one) => void passed.push(one), SIGNAL_GRACE_MS);
    cli.handleSignal(signal);
    expect([passed, cli.cancelled.aborted]).toEqual([[signal], false]);
    return cli;
  }

  it('Ctrl-C: the command stops at the end of the grace, unless its program has ended before', () => {
    const stuck = interrupted('SIGINT');
    const done = interrupted('SIGINT');
    done.stopForwardingSignals();
    vi.advanceTimersByTime(SIGNAL_GRACE_MS);
    expect([stuck.cancelled.aborted, done.cancelled.aborted]).toEqual([true, false]);
    done.handleSignal('SIGINT');
    expect(done.cancelled.aborted).toBe(true);
  });

  it('SIGTERM: the command stops at the end of the grace, even if its program has ended', () => {
    const cli = interrupted('SIGTERM');
    cli.stopForwardingSignals();
    vi.advanceTimersByTime(SIGNAL_GRACE_MS);
    expect(cli.cancelled.aborted).toBe(true);
  });

  it('a signal after the end of the program stops the command at once', () => {
    const { cli } = testCli();
    cli.onSignal(() => expect.unreachable(), null);
    cli.stopForwardingSignals();
    cli.handleSignal('SIGINT');
    expect([cli.cancelled.aborted, cli.signalStatus]).toEqual([true, 130]);
  });
});
