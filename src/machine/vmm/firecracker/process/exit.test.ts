import { describe, expect, it } from 'vitest';
import { judgeExit } from './exit.ts';

const line = (text: string): string => `2026-11-26T02:52:47.227206041 [vm1:main] ${text}\n`;
const end = (more: object) => judgeExit({ exitCode: 0, signal: null, killed: false, log: '', stderr: '', ...more });

describe('judgeExit', () => {
  it('judgeExit: status 0 is an end by the guest: a reset or a triple fault', () => {
    const log = line('Vmm is stopping.') + line('Firecracker exiting successfully. exit_code=0');
    expect(end({ log })).toMatchObject({ cause: 'guest-shutdown', detail: 'reset' });
    const fault = line('Received KVM_EXIT_SHUTDOWN signal') + log;
    expect(end({ log: fault })).toMatchObject({ cause: 'guest-shutdown', detail: 'triple fault' });
  });
  it.each([
    'Unexpected exit reason on vcpu run: InternalError',
    'Received KVM_EXIT_INTERNAL_ERROR signal',
    'Failed to run vCPU: Bad address (os error 14)',
    "thread 'fc_vcpu 0' panicked at src/machine/vmm/src/lib.rs:1",
  ])('judgeExit: status 0 after "%s" is a crash nevertheless', (text) => {
    const exit = end({ log: line(text) + line('Firecracker exiting successfully. exit_code=0') });
    expect(exit.cause).toBe('vmm-crashed');
    expect(exit.detail).toContain(text);
  });
  it('judgeExit: a signal and any other status is a crash, unless we sent it', () => {
    expect(end({ exitCode: null, signal: 'SIGTERM' }).cause).toBe('vmm-crashed');
    expect(end({ exitCode: 148 })).toEqual(expect.not.objectContaining({ refusedSyscall: expect.anything() }));
    expect(end({ exitCode: 148 }).cause).toBe('vmm-crashed');
    expect(end({ exitCode: null, signal: 'SIGKILL', killed: true }).cause).toBe('killed');
  });
  it('judgeExit: names a refused call by number, only for the status of a refused call', () => {
    const log = line('Shutting down VM after intercepting a bad syscall (59).');
    expect(end({ exitCode: 148, log })).toMatchObject({ cause: 'vmm-crashed', refusedSyscall: 59 });
    expect(end({ exitCode: 1, log }).refusedSyscall).toBeUndefined();
  });
  it('judgeExit: quotes the last lines without times and successful calls', () => {
    const calls = line('The API server received a Put request on "/vsock"').repeat(100);
    const log = calls + line('something odd') + line('API server started.');
    const exit = end({ exitCode: 1, log, stderr: 'a panic\n' });
    expect(exit.detail).toBe('a panic\nsomething odd');
    const long = end({ exitCode: 1, stderr: `${'x'.repeat(100_000)}\n`.repeat(20) });
    expect(long.detail.length).toBeLessThanOrEqual(4_000);
  });
});
