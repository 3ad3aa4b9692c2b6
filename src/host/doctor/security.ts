/**
 * Checks whether this host is fit to run untrusted code: the requirements of Firecracker's production host guide (its
 * docs/prod-host-setup.md) and of our own jail. Facts of /proc and /sys are an argument, so that every judgment can be
 * tested.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import type { Config } from '../../base/config.ts';
import { describeError, remedyOf } from '../../base/errors.ts';
import { resolveHome } from '../../base/home.ts';
import { tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { withFirecracker } from '../runtime/firecracker/binary.ts';
import { remediesOf } from '../runtime/jail.ts';
import { confineChoice, foreseeVmm } from '../runtime/vmm-choice.ts';
import type { Check, Finding } from './check.ts';

export interface HostFacts {
  /** The trimmed text of a file; `null` if absent or unreadable. */
  read(path: string): string | null;
  /** Names in a directory; empty if absent or unreadable. */
  list(path: string): readonly string[];
  exists(path: string): boolean;
  /** As printed by `uname -r`. */
  readonly kernel: string;
}

export const thisHost: HostFacts = {
  read(path) {
    return tryOr(null, 'an absent fact', () => readFileSync(path, 'utf8').trim());
  },
  list(path) {
    return tryOr([], 'an absent fact', () => readdirSync(path));
  },
  exists: existsSync,
  kernel: release(),
};

/** Checks the host, then the jail. A check that fails never hides another. */
export async function auditHost(
  options: { readonly config: Config; readonly log: Log },
  host: HostFacts = thisHost,
): Promise<Check[]> {
  const facts = JUDGEMENTS.map(([name, judge]) => ({ name, ...judge(host) }));
  return [...facts, ...(await jailChecks(options))];
}

const ok = (detail: string): Finding => ({ verdict: 'ok', detail, remedy: null });
const limited = (detail: string, remedy: string): Finding => ({ verdict: 'limited', detail, remedy });

export const JUDGEMENTS: readonly (readonly [string, (host: HostFacts) => Finding])[] = [
  ['host kernel', kernel],
  ['virtualised host', nested],
  ['kvm device', kvmDevice],
  ['second-level paging', paging],
  ['simultaneous threads', smt],
  ['page sharing', ksm],
  ['swap', swap],
  ['processor flaws', flaws],
  ['rowhammer', rowhammer],
  ['start of VMs', hugePages],
  ['kernel console', kernelConsole],
  ['control groups', controlGroups],
  ['user ids', userIds],
];

const KERNEL_MIN = [5, 10] as const;

function kernel({ kernel: version }: HostFacts): Finding {
  const [major = 0, minor = 0] = version.split('.').map(Number.parseFloat);
  const isOld = major < KERNEL_MIN[0] || (major === KERNEL_MIN[0] && minor < KERNEL_MIN[1]);
  if (!isOld) return ok(version);
  return limited(`${version} is older than ${KERNEL_MIN.join('.')}`, 'use a newer kernel');
}

function nested({ read }: HostFacts): Finding {
  const flags = /^flags\s*:(.*)$/m.exec(read('/proc/cpuinfo') ?? '')?.[1] ?? '';
  if (!/ hypervisor( |$)/.test(flags)) return ok('no: bare metal');
  return limited(
    'this host is a virtual machine: its hypervisor must be trusted, too',
    'use bare metal for untrusted code',
  );
}

function kvmDevice({ exists, read }: HostFacts): Finding {
  if (!exists('/dev/kvm')) {
    return limited('no /dev/kvm: guests are emulated', 'use a host with KVM');
  }
  const modules = read('/proc/modules') ?? '';
  const nesting = ['kvm_intel', 'kvm_amd']
    .map((name) => read(`/sys/module/${name}/parameters/nested`))
    .find((value) => value === 'Y' || value === '1');
  if (nesting === undefined) return ok(modules.includes('kvm') ? 'present, without nesting' : 'present');
  return limited(
    'present, with nesting: other guests could run hypervisors (ours get no vmx or svm)',
    'load kvm_intel or kvm_amd with nested=0',
  );
}

function paging({ read }: HostFacts): Finding {
  const value = read('/sys/module/kvm_intel/parameters/ept') ?? read('/sys/module/kvm_amd/parameters/npt');
  if (value === null) return ok('no KVM module needs it');
  if (value === 'Y' || value === '1') return ok('on');
  return limited('off: KVM shadows page tables in software', 'load kvm_intel with ept=1 (kvm_amd: npt=1)');
}

function smt({ read }: HostFacts): Finding {
  const active = read('/sys/devices/system/cpu/smt/active');
  if (active !== '1') return ok(active === null ? 'none' : 'off');
  return limited(
    'on: a guest may spy on another guest on the same core',
    'boot with nosmt, or echo off > /sys/devices/system/cpu/smt/control',
  );
}

function ksm({ read }: HostFacts): Finding {
  if (read('/sys/kernel/mm/ksm/run') !== '1') return ok('off');
  return limited('on (KSM): a guest can find out which pages another guest has', 'echo 2 > /sys/kernel/mm/ksm/run');
}

function swap({ read }: HostFacts): Finding {
  const devices = (read('/proc/swaps') ?? '').split('\n').slice(1);
  const plain = devices
    .map((line) => line.split(/\s+/)[0] ?? '')
    .filter((name) => name !== '' && !name.includes('zram'));
  if (plain.length === 0) return ok('none on disk');
  return limited(`${plain.join(', ')}: guest memory may reach the disk`, 'swapoff -a, or encrypt the swap device');
}

function flaws({ read, list }: HostFacts): Finding {
  const dir = '/sys/devices/system/cpu/vulnerabilities';
  const names = list(dir);
  const open = names.filter((name) => read(`${dir}/${name}`)?.startsWith('Vulnerable') === true);
  if (names.length === 0) {
    return limited(
      'unknown: this kernel does not report them',
      'use a kernel with /sys/devices/system/cpu/vulnerabilities',
    );
  }
  if (open.length === 0) return ok(`${names.length} known, all mitigated`);
  return limited(
    `vulnerable: ${open.sort().join(', ')}`,
    'update microcode and kernel, and keep the default mitigations=; spectre-meltdown-checker shows details',
  );
}

/** No file reports it. */
function rowhammer(): Finding {
  return limited('unknown: it cannot be detected', 'use memory with ECC and target row refresh (TRR)');
}

function hugePages({ read }: HostFacts): Finding {
  const value = read('/sys/module/kvm/parameters/nx_huge_pages');
  const affected = read('/sys/devices/system/cpu/vulnerabilities/itlb_multihit');
  if (value === null || value === 'N' || value === 'never') return ok('not slowed down');
  if (affected?.startsWith('KVM') === true) return ok('slowed down by a mitigation that this processor needs');
  return limited(
    'slowed down by a mitigation that this processor does not need (Linux 6.1 and newer)',
    'load kvm with nx_huge_pages=never, or mount cgroup2 with favordynmods',
  );
}

/** KERN_WARNING: only more urgent messages are printed. */
const CONSOLE_LEVEL_MAX = 4;

function kernelConsole({ read }: HostFacts): Finding {
  const level = Number((read('/proc/sys/kernel/printk') ?? '').split(/\s+/)[0]);
  if (Number.isNaN(level) || level <= CONSOLE_LEVEL_MAX) return ok('quiet');
  return limited(
    `level ${level}: guests can make the kernel write much to a slow console`,
    'boot with quiet loglevel=1, or sysctl kernel.printk=1',
  );
}

function controlGroups({ exists, read }: HostFacts): Finding {
  const controllers = read('/sys/fs/cgroup/cgroup.controllers');
  if (controllers !== null) return ok(`v2: ${controllers}`);
  if (exists('/sys/fs/cgroup/memory')) {
    return limited('v1: limits hold, but snapshots are restored more slowly', 'boot with cgroup v2');
  }
  return limited('not mounted: VMMs have no limits', 'mount /sys/fs/cgroup');
}

const USERS = /^[^:]*:[^:]*:(\d+):/;
/** Our default range of user ids, which systemd's allocation table leaves free. */
const RESERVED = [1_900_000_000, 1_900_004_095] as const;

function userIds({ read }: HostFacts): Finding {
  const lines = (read('/etc/passwd') ?? '').split('\n');
  const taken = lines.filter((line) => {
    const uid = Number(USERS.exec(line)?.[1]);
    return uid >= RESERVED[0] && uid <= RESERVED[1];
  });
  if (taken.length === 0) return ok(`${RESERVED.join(' to ')} are free`);
  return limited(
    `${taken.length} users of this host have ids in the range for VMMs`,
    'set NEUROVISOR_JAIL_UIDS to FIRST:COUNT, an unused range',
  );
}

async function jailChecks(options: { readonly config: Config; readonly log: Log }): Promise<Check[]> {
  const { config, log } = options;
  const home = resolveHome(config.home);
  if (config.jail === 'off' || config.jail === 'log') {
    const remedy = 'unset NEUROVISOR_JAIL, or set it to enforce';
    return [{ name: 'jail', verdict: 'limited', detail: `NEUROVISOR_JAIL=${config.jail}`, remedy }];
  }
  try {
    const options = { config: await withFirecracker(config, home), home, log };
    const found = await confineChoice(await foreseeVmm(options), options);
    await found.close();
    if (found.gaps.length === 0) return [{ name: 'jail', ...ok(found.description) }];
    const detail = `${found.description}; but ${found.gaps.map(({ text }) => text).join('; ')}`;
    return [{ name: 'jail', ...limited(detail, remediesOf(found.gaps)) }];
  } catch (error) {
    const remedy = remedyOf(error) ?? 'see docs/security.md';
    return [{ name: 'jail', verdict: 'missing', detail: describeError(error), remedy }];
  }
}
