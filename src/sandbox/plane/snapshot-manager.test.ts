import { describe, expect, it } from 'vitest';
import { foreign } from './snapshot-row.ts';

const of = (machine: string) => ({
  ...({ id: 'abc', name: 'base', kind: 'snapshot', sandboxId: 'box' } as const),
  ...{ madeBy: '0.1.0 (01234567)', machine },
});
const QEMU = 'QEMU 7.2.22 kvm, EPYC, 0123';
const FIRECRACKER = 'Firecracker 1.16.1, EPYC, 1 CPUs, 512 MiB';

describe('foreign', () => {
  it.each([
    [QEMU, FIRECRACKER, 'QEMU', '--vmm qemu'],
    [FIRECRACKER, QEMU, 'Firecracker', '--vmm firecracker'],
  ])('foreign: a snapshot of another VMM names the option that resumes it', (its, ours, name, how) => {
    const error = foreign(of(its), ours);
    expect(error).toMatchObject({ code: 'snapshot_foreign', remedy: expect.stringContaining(how) });
    expect(error.message).toBe(`snapshot base was made with ${name}`);
  });
  it('foreign: another version or processor of the same VMM has no such option', () => {
    const { message, cause, remedy } = foreign(of(QEMU), 'QEMU 8.0.0 kvm, EPYC, 4567');
    expect(message).toContain('another kernel, image, VMM or processor');
    expect(cause).toContain('0.1.0 (01234567)');
    expect(remedy).not.toContain('--vmm');
    expect(remedy).toContain('git checkout 01234567');
  });
});
