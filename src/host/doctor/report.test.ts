import { describe, expect, it } from 'vitest';
import { distributionOf, type HostReport, processorOf } from './report.ts';
import { reportText } from './report-text.ts';

const REPORT: HostReport = {
  neurovisor: '0.1.0',
  node: '24.21.0',
  distribution: 'debian 12',
  kernel: '6.12.1',
  user: 'ordinary',
  processor: { model: 'A | B', cpus: 2, virtualization: 'svm', nested: false },
  memoryGib: 23.5,
  qemu: '7.2.22',
  firecracker: '1.16.1',
  jailer: null,
  kvm: {
    usable: true,
    reason: 'KVM runs guest code natively',
    cached: true,
    steps: [
      { step: 'loop', ms: 1.5, instructionsPerSecond: 2e9, error: null },
      { step: 'int3', ms: null, instructionsPerSecond: null, error: 'EINVAL' },
    ],
  },
  accelerator: 'kvm',
  vmm: 'firecracker',
  cgroups: { version: 'v2', controllers: ['memory', 'pids'] },
  jail: { mode: 'auto', state: 'enforced', description: 'jailed', gaps: ['VMMs run as this user'] },
  seccomp: ['trap', 'log'],
  starts: {
    rounds: 5,
    vmm: 'firecracker',
    accelerator: 'kvm',
    prepareMs: 1,
    vmmMs: 2,
    kernelMs: 3,
    agentMs: 4,
    totalMs: 10,
    vmmMemoryMib: 4.2,
  },
};

describe('reportText', () => {
  it('reportText: one table; no text can break out of its cell', () => {
    const text = reportText(REPORT);
    const lines = text.trimEnd().split('\n');
    expect(lines.slice(0, 4)).toEqual(['### neurovisor doctor --report', '', '| | |', '|---|---|']);
    for (const line of lines.slice(4)) expect(line).toMatch(/^\| [^|]+ \| ([^|\\]|\\[|\\])+ \|$/);
    expect(text).toContain(String.raw`A \| B`);
    expect(text).toContain('loop 1.5 ms (2000 M/s), int3 failed: EINVAL');
    expect(text).toContain('prepare 1, VMM 2, kernel 3, agent 4, ready 10 ms');
    expect(text).toContain('| jail lacks | VMMs run as this user |');
  });
  it('reportText: says why no start was measured', () => {
    const starts = { skipped: 'not set up' };
    expect(reportText({ ...REPORT, starts })).toContain('| starts | skipped: not set up |');
  });
});

describe('facts', () => {
  it('distributionOf: only words of the expected form', () => {
    expect(distributionOf('NAME="x"\nID=debian\nVERSION_ID="12"\n')).toBe('debian 12');
    expect(distributionOf('ID=arch\n')).toBe('arch');
    expect(distributionOf('ID="of Alice & Bob"\n')).toBe('unknown');
  });
  it('processorOf: model, virtualization, and whether it is a virtual machine', () => {
    const text = 'model name\t: AMD EPYC 7R13\nflags\t\t: fpu svm hypervisor\n';
    expect(processorOf(text)).toMatchObject({ model: 'AMD EPYC 7R13', virtualization: 'svm', nested: true });
    expect(processorOf('flags\t: vmx\n')).toMatchObject({ model: 'unknown', virtualization: 'vmx', nested: false });
  });
});
