import { describe, expect, it } from 'vitest';
import { RuntimeError } from './errors.ts';
import type { ConfinedFirecracker } from './firecracker/firecracker.ts';
import { chooseByJail, chooseVmm, judgeFirecracker } from './vmm-choice.ts';

const kvm = { usable: true, reason: 'KVM runs guest code natively' };
const noKvm = { usable: false, reason: "KVM can't run Linux guests" };
const fit = { version: '1.16.1', problem: null };
const none = { version: null, problem: 'it is not installed' };
const auto = { vmm: 'auto', accelerator: 'auto' } as const;
const asked = { vmm: 'firecracker', accelerator: 'auto' } as const;

describe('chooseVmm', () => {
  it('chooseVmm: auto chooses Firecracker with KVM', () => {
    expect(chooseVmm(auto, kvm, fit)).toEqual({
      vmm: 'firecracker',
      reason: 'KVM runs guest code natively, and Firecracker is installed',
    });
    expect(chooseVmm({ ...auto, accelerator: 'kvm' }, kvm, fit).vmm).toBe('firecracker');
  });
  it.each([
    ['no KVM', auto, noKvm, null, "KVM can't run Linux guests"],
    ['no Firecracker', auto, kvm, none, "Firecracker can't be used: it is not installed"],
    ['emulation', { ...auto, accelerator: 'tcg' } as const, kvm, fit, 'software emulation is conf'],
  ])('chooseVmm: auto chooses QEMU elsewhere and says why: %s', (_, config, verdict, found, why) => {
    const { vmm, reason } = chooseVmm(config, verdict, found);
    expect({ vmm, reason }).toEqual({ vmm: 'qemu', reason: expect.stringContaining(why) });
  });
  it('chooseVmm: chooses the requested VMM if it can run here', () => {
    expect(chooseVmm(asked, kvm, fit)).toEqual({ vmm: 'firecracker', reason: 'as configured' });
    expect(chooseVmm({ ...asked, vmm: 'qemu' }, kvm, fit).vmm).toBe('qemu');
  });
  it.each([
    ['no KVM', asked, noKvm, fit, "can't run Linux"],
    ['no binary', asked, noKvm, none, 'is not installed'],
    ['emulation', { ...asked, accelerator: 'tcg' } as const, kvm, fit, 'no software'],
  ])('chooseVmm: refuses Firecracker with a reason: %s', (_, config, verdict, found, why) => {
    const choose = () => chooseVmm(config, verdict, found);
    expect(choose).toThrow(why);
    expect(choose).toThrow(
      expect.objectContaining({ code: 'no_accelerator', remedy: expect.stringContaining('qemu') }),
    );
  });
  it('chooseVmm: also names the remedy for /dev/kvm', () => {
    const closed = { usable: false, reason: "/dev/kvm can't be opened", remedy: 'Join its group.' };
    const choose = () => chooseVmm(asked, closed, fit);
    expect(choose).toThrow(
      expect.objectContaining({ remedy: expect.stringMatching(/^Join its group\. Or choose QEMU/) }),
    );
  });
});

describe('chooseByJail', () => {
  const choice = { vmm: 'firecracker', reason: 'KVM works' } as const;
  let closed = 0;
  const gapsOf = (texts: readonly string[]) => texts.map((text) => ({ text, remedy: '' }));
  const jailed = (texts: readonly string[]): ConfinedFirecracker => ({
    jail: null,
    confinement: { state: 'enforced', description: '', gaps: gapsOf(texts), close: async () => void closed++ },
  });
  const choose = (
    mode: 'auto' | 'enforce',
    gaps: readonly string[] | null,
    qemuGaps: readonly string[] | RuntimeError | null = [],
  ) =>
    chooseByJail(choice, mode, {
      firecracker: async () => {
        if (gaps === null) throw new RuntimeError('jail_unavailable', 'cannot jail VMMs');
        return jailed(gaps);
      },
      qemuGaps: async () => {
        if (qemuGaps instanceof RuntimeError) throw qemuGaps;
        return qemuGaps === null ? null : gapsOf(qemuGaps);
      },
    });

  it.each([
    ['its jail is complete', 'enforce', [], []],
    ["QEMU's jail lacks the same", 'auto', ['no limits'], ['no limits']],
    ["QEMU's jail lacks more", 'auto', ['no limits'], ['no limits', 'no user']],
    ["QEMU can't be jailed", 'auto', ['no limits'], new RuntimeError('jail_unavailable', 'no')],
    ['QEMU is not installed', 'auto', ['no limits'], null],
  ] as const)('chooseByJail: chooses Firecracker: %s', async (_, mode, gaps, qemuGaps) => {
    closed = 0;
    const chosen = await choose(mode, gaps, qemuGaps);
    expect(chosen).toMatchObject({ ...choice, confined: { confinement: { gaps: gapsOf(gaps) } } });
    expect(closed).toBe(0);
  });
  it.each([
    ["Firecracker can't be jailed", 'auto', null, [], "can't be jailed here: cannot jail VMMs", 0],
    ["QEMU's jail lacks less", 'auto', ['no limits', 'no user'], ['no limits'], ': no user', 1],
    ['enforce accepts no gap', 'enforce', ['no limits'], ['no limits'], ': no limits', 1],
  ] as const)('chooseByJail: chooses QEMU: %s', async (_, mode, gaps, qemuGaps, why, closes) => {
    closed = 0;
    const { vmm, reason, confined } = await choose(mode, gaps, qemuGaps);
    expect({ vmm, confined, closed }).toEqual({ vmm: 'qemu', confined: undefined, closed: closes });
    expect(reason).toContain(why);
  });
  it("chooseByJail: an unexpected error of QEMU's jail closes Firecracker's", async () => {
    closed = 0;
    const choosing = chooseByJail(choice, 'auto', {
      firecracker: async () => jailed(['no limits']),
      qemuGaps: () => Promise.reject(new RangeError('unexpected')),
    });
    await expect(choosing).rejects.toThrow('unexpected');
    expect(closed).toBe(1);
  });
});

describe('judgeFirecracker', () => {
  it('judgeFirecracker: a missing binary is a problem, not an error', async () => {
    const { version, problem } = await judgeFirecracker('/nonexistent/firecracker');
    expect(version).toBeNull();
    expect(problem).toBe('it is not installed');
  });
});
