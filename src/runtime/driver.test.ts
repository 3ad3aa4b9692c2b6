import { describe, expect, it } from 'vitest';
import { chooseVmm, judgeFirecracker } from './driver.ts';

const qemu = { binary: 'qemu-system-x86_64', version: '7.2.22' };
const machine = (accelerator: 'kvm' | 'tcg' | 'none', hasQemu = true) => ({
  accelerator,
  reason: 'KVM can not run Linux guests',
  details: {
    kvm: { usable: accelerator === 'kvm', reason: '', steps: [] },
    qemu: hasQemu ? qemu : null,
    cached: false,
  },
});
const fit = { version: '1.16.1', problem: null };
const none = { version: null, problem: 'it is not installed' };
const auto = { vmm: 'auto', accelerator: 'auto', jail: 'off' } as const;
const asked = { vmm: 'firecracker', accelerator: 'auto', jail: 'auto' } as const;

describe('chooseVmm', () => {
  it('chooseVmm: QEMU by default; Firecracker without QEMU, with KVM, and with the jail off', () => {
    expect(chooseVmm(auto, machine('kvm'), fit)).toBe('qemu');
    expect(chooseVmm(auto, machine('tcg'), fit)).toBe('qemu');
    expect(chooseVmm(auto, machine('kvm', false), fit)).toBe('firecracker');
    expect(chooseVmm(auto, machine('kvm', false), none)).toBe('qemu');
    expect(chooseVmm(auto, machine('none', false), fit)).toBe('qemu');
    expect(chooseVmm({ ...auto, accelerator: 'tcg' }, machine('kvm', false), fit)).toBe('qemu');
  });
  it.each(['auto', 'enforce', 'log'] as const)(
    'chooseVmm: never Firecracker by default with the jail %s',
    (jail) => {
      expect(chooseVmm({ ...auto, jail }, machine('kvm', false), fit)).toBe('qemu');
    },
  );
  it('chooseVmm: the requested VMM if it can run here', () => {
    expect(chooseVmm(asked, machine('kvm'), fit)).toBe('firecracker');
    expect(chooseVmm({ ...asked, vmm: 'qemu' }, machine('kvm', false), fit)).toBe('qemu');
  });
  it.each([
    ['no KVM', asked, machine('tcg'), fit, 'can not run Linux'],
    ['no binary', asked, machine('kvm'), none, 'is not installed'],
    ['emulation', { ...asked, accelerator: 'tcg' } as const, machine('kvm'), fit, 'no software'],
  ])('chooseVmm: refuses Firecracker with a reason: %s', (_, config, verdict, firecracker, why) => {
    const choose = () => chooseVmm(config, verdict, firecracker);
    expect(choose).toThrow(why);
    expect(choose).toThrow(
      expect.objectContaining({ code: 'no_accelerator', remedy: expect.stringContaining('qemu') }),
    );
  });
});

describe('judgeFirecracker', () => {
  it('judgeFirecracker: a missing binary is a problem, not an error', async () => {
    const { version, problem } = await judgeFirecracker('/nonexistent/firecracker');
    expect(version).toBeNull();
    expect(problem).toBe('it is not installed');
  });
});
