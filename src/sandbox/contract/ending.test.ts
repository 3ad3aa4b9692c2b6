import { describe, expect, it } from 'vitest';
import type { VmExit } from '../../machine/vmm/driver.ts';
import { causeOfExit } from './ending.ts';

const SHUTDOWN: VmExit = { cause: 'guest-shutdown', exitCode: 0, signal: null, detail: 'guest-reset' };
const CRASH: VmExit = { cause: 'vmm-crashed', exitCode: 1, signal: null, detail: '' };
const panic = (why: string): string => `[ 1.0] ok\n[ 2.0] Kernel panic - not syncing: ${why}\r\n[ 2.0] CPU: 0\n`;

describe('causeOfExit', () => {
  it.each<[string, VmExit, string, number, string]>([
    ['powered off', { ...SHUTDOWN, detail: 'guest-shutdown' }, '', 0, 'guest-shutdown'],
    ['rebooted', SHUTDOWN, 'login:', 0, 'guest-shutdown'],
    ['a panic', SHUTDOWN, panic('sysrq triggered crash'), 0, 'guest-panic'],
    ['an OOM panic', SHUTDOWN, panic('Out of memory: compulsory panic_on_oom is enabled'), 0, 'guest-oom'],
    ['nothing left to kill', SHUTDOWN, panic('System is deadlocked on memory'), 0, 'guest-oom'],
    [
      'a panic that a program printed, and powered off',
      { ...SHUTDOWN, detail: 'guest-shutdown' },
      panic('lie'),
      0,
      'guest-shutdown',
    ],
    [
      'its agent was killed',
      SHUTDOWN,
      'neurovisor-init: the agent was ended by signal 9\r\n[ 9.0] reboot: Restarting system\n',
      0,
      'agent-lost',
    ],
    [
      'rebooted long after a program printed that',
      SHUTDOWN,
      `neurovisor-init: the agent was ended by signal 9\n${'x'.repeat(600)}`,
      0,
      'guest-shutdown',
    ],
    ['SIGKILL', { ...CRASH, exitCode: null, signal: 'SIGKILL' }, '', 0, 'vmm-killed'],
    ['a refused call', { ...CRASH, exitCode: null, signal: 'SIGSYS' }, '', 0, 'seccomp-violation'],
    [
      'a refused call, as Firecracker tells',
      { ...CRASH, exitCode: 148, refusedSyscall: 59 },
      '',
      0,
      'seccomp-violation',
    ],
    ['SIGKILL by the OOM killer', { ...CRASH, signal: 'SIGKILL' }, '', 1, 'host-oom'],
    ['a kill of before does not explain a fault', { ...CRASH, signal: 'SIGSEGV' }, '', 1, 'vmm-crashed'],
    [
      'SIGTERM, which QEMU takes',
      { ...CRASH, exitCode: 0, detail: 'qemu: terminating on signal 15 from pid 9 (kill)' },
      '',
      0,
      'vmm-killed',
    ],
    ['a status', CRASH, '', 0, 'vmm-crashed'],
    ['a fault', { ...CRASH, exitCode: null, signal: 'SIGABRT' }, '', 0, 'vmm-crashed'],
  ])('each exit has its cause: %s', (_what, exit, console, kills, expected) => {
    expect(causeOfExit(exit, console, kills).cause).toBe(expected);
  });

  it('detail: one printable line of bounded length', () => {
    expect(causeOfExit(SHUTDOWN, panic('a\u001b[31mb'), 0).detail).toBe('a [31mb');
    expect(causeOfExit(SHUTDOWN, panic('x'.repeat(9999)), 0).detail).toHaveLength(200);
    const segv = { ...CRASH, exitCode: null, signal: 'SIGSEGV', detail: 'last words' };
    expect(causeOfExit(segv, '', 0).detail).toBe('it got SIGSEGV: last words');
    const unknown = { ...CRASH, exitCode: null, detail: 'the channel has failed' };
    expect(causeOfExit(unknown, '', 0).detail).toBe('the channel has failed');
  });
});
