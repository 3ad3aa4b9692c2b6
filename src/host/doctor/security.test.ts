import { describe, expect, it } from 'vitest';
import { type HostFacts, JUDGEMENTS } from './security.ts';

/** A host without faults, except for these facts. */
function host(facts: Readonly<Record<string, string>> = {}, kernel = '6.12.1'): HostFacts {
  const good: Record<string, string> = {
    '/proc/cpuinfo': 'flags\t\t: fpu vme sse2',
    '/dev/kvm': '',
    '/sys/module/kvm_intel/parameters/ept': 'Y',
    '/sys/module/kvm_intel/parameters/nested': 'N',
    '/sys/devices/system/cpu/smt/active': '0',
    '/sys/kernel/mm/ksm/run': '0',
    '/proc/swaps': 'Filename Type Size Used Priority',
    '/sys/devices/system/cpu/vulnerabilities/meltdown': 'Not affected',
    '/proc/sys/kernel/printk': '1\t4\t1\t7',
    '/sys/fs/cgroup/cgroup.controllers': 'cpu io memory pids',
    '/etc/passwd': 'root:x:0:0::/root:/bin/sh',
    ...facts,
  };
  return {
    read: (path) => good[path] ?? null,
    list: (path) =>
      Object.keys(good)
        .filter((name) => name.startsWith(`${path}/`))
        .map((name) => name.slice(path.length + 1)),
    exists: (path) => Object.keys(good).some((name) => name === path || name.startsWith(`${path}/`)),
    kernel,
  };
}

const blamed = (of: HostFacts): string[] =>
  JUDGEMENTS.filter(([, judge]) => judge(of).verdict !== 'ok').map(([name]) => name);
/** Findings that no file can rule out. */
const ALWAYS = ['rowhammer'];

describe('auditHost', () => {
  it('auditHost: a good host has no finding except undetectable ones', () => {
    expect(blamed(host())).toEqual(ALWAYS);
  });
  it.each([
    ['host kernel', {}, '5.4.0-1-amd64'],
    ['virtualised host', { '/proc/cpuinfo': 'flags\t: fpu hypervisor lahf_lm' }],
    ['kvm device', { '/sys/module/kvm_intel/parameters/nested': 'Y' }],
    ['second-level paging', { '/sys/module/kvm_intel/parameters/ept': 'N' }],
    ['simultaneous threads', { '/sys/devices/system/cpu/smt/active': '1' }],
    ['page sharing', { '/sys/kernel/mm/ksm/run': '1' }],
    ['swap', { '/proc/swaps': 'Filename Type\n/dev/sda2 partition 100 0 -2' }],
    ['processor flaws', { '/sys/devices/system/cpu/vulnerabilities/mds': 'Vulnerable: no microcode' }],
    ['start of VMs', { '/sys/module/kvm/parameters/nx_huge_pages': 'Y' }],
    ['kernel console', { '/proc/sys/kernel/printk': '7\t4\t1\t7' }],
    ['user ids', { '/etc/passwd': 'agent:x:1900000010:1::/:/bin/sh' }],
  ] as const)('auditHost: %s is the only finding, with a remedy', (name, facts, kernel?: string) => {
    const bad = host(facts, kernel);
    expect(blamed(bad).sort()).toEqual([...ALWAYS, name].sort());
    const judge = JUDGEMENTS.find(([each]) => each === name)?.[1];
    expect(judge?.(bad).remedy).toEqual(expect.any(String));
  });
  it('auditHost: missing facts do not fail the audit', () => {
    const silent: HostFacts = { read: () => null, list: () => [], exists: () => false, kernel: 'x' };
    for (const [, judge] of JUDGEMENTS) expect(judge(silent).detail).not.toBe('');
  });
});
