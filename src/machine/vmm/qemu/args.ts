/**
 * The command lines of QEMU and of the guest's kernel; pure.
 *
 * QEMU parses no text of a caller: disk paths travel as JSON (`-blockdev`), the kernel's path and command line are
 * whole arguments, sockets are inherited descriptors or go over QMP. The machine:
 *
 *     pc (PCI with ACPI hot plug) ── addr 2 virtio-blk root, read-only at the device
 *                                 ── addr 3 virtio-blk overlay
 *                                 ── addr 4 virtio-rng
 *                                 ── addr 5 vhost-user-vsock, plugged over QMP before the first instruction
 *                                 ── addr 6 virtio-net on a TAP, plugged likewise if a sandbox has a network
 *                                 ── addr 7 virtio-balloon, if the guest's memory can change
 *                                 ── addr 8 … virtio-blk, further disks
 *                                 ── addr 16 … virtio-blk, volumes, plugged over QMP (`volumes.ts`)
 */
import { MIB } from '../../../base/units.ts';
import type { VmDisk } from '../driver.ts';

/** Descriptors that QEMU inherits: two connected stream sockets, and its RAM if the caller owns it. */
export const QMP_FD = 3;
export const SERIAL_FD = 4;
export const MEMORY_FD = 5;

/**
 * Size of TCG's cache of translated code, MiB. Less makes it translate again and again, more does not help Python with
 * LangChain, and QEMU's default of 1 GiB would let each VM grow by that.
 */
const TCG_CACHE_MIB = 128;

/** Block nodes of the disks that every VM has, in the guest's order. */
export const DISK_NODES = ['root', 'overlay'] as const;

const furtherNode = (index: number): string => `disk${index}`;
/** Whether a block node is one of a VM's extra disks or volumes. */
export const isFurtherNode = (name: unknown): boolean => /^(?:disk|volume)\d+$/.test(`${name}`);
/** PCI slot of the first extra disk. */
const FURTHER_ADDR = 8;

interface QemuPlan {
  readonly accelerator: 'kvm' | 'tcg';
  readonly cpus: number;
  readonly memoryMib: number;
  readonly kernelPath: string;
  readonly kernelArgs: readonly string[];
  readonly rootImagePath: string;
  readonly overlayPath: string;
  readonly disks: readonly VmDisk[];
  /** qboot; `null`: QEMU's own default firmware. */
  readonly firmwarePath: string | null;
  /** RAM is the file at `MEMORY_FD`; false: QEMU's own memory. */
  readonly inheritsMemory: boolean;
  /** That file is mapped privately: the guest's changes stay QEMU's own. Default: shared. */
  readonly hasPrivateMemory?: boolean;
  readonly hasBalloon: boolean;
  /** Waits for a state over QMP instead of booting. */
  readonly incoming: boolean;
}

/** Arguments after the binary's name. */
export function qemuArgs(plan: QemuPlan): string[] {
  return [
    ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-S'],
    ['-name', 'neurovisor'],
    ['-machine', `pc,hpet=${hasOneEmulatedCpu(plan) ? 'on' : 'off'},vmport=off,memory-backend=mem`],
    ['-accel', plan.accelerator === 'kvm' ? 'kvm' : `tcg,tb-size=${TCG_CACHE_MIB}`],
    ['-cpu', CPU[plan.accelerator]],
    ['-smp', `cpus=${plan.cpus},maxcpus=${plan.cpus}`],
    ['-m', `${plan.memoryMib}M`],
    ['-object', JSON.stringify(memoryBackend(plan))],
    ...(plan.incoming ? ['-incoming', 'defer'] : []),
    ...(plan.firmwarePath === null ? [] : ['-bios', plan.firmwarePath]),
    ['-kernel', plan.kernelPath, '-append', plan.kernelArgs.join(' ')],
    ['-chardev', `socket,id=qmp,fd=${QMP_FD}`, '-mon', 'chardev=qmp,mode=control'],
    ['-chardev', `socket,id=serial,fd=${SERIAL_FD}`, '-serial', 'chardev:serial'],
    ['-blockdev', JSON.stringify(readOnlyNode('root', plan.rootImagePath))],
    ['-device', 'virtio-blk-pci,drive=root,addr=2,romfile='],
    ['-blockdev', JSON.stringify(writableNode('overlay', plan.overlayPath))],
    ['-device', 'virtio-blk-pci,drive=overlay,addr=3,romfile='],
    ['-object', 'rng-builtin,id=rng', '-device', 'virtio-rng-pci,rng=rng,addr=4,romfile='],
    ...(plan.hasBalloon ? ['-device', BALLOON] : []),
    ...plan.disks.flatMap(furtherDisk),
  ].flat();
}

/** A guest close to OOM must not deflate the balloon itself: the host decides, or the guest's OOM killer. */
const BALLOON = 'virtio-balloon-pci,id=balloon,deflate-on-oom=off,addr=7,romfile=';

/**
 * No nested virtualization. AVX costs TCG more than it saves: Python runs 20 % faster without. Without ERMS and FSRM
 * Linux copies by words instead of `rep movsb`, which TCG runs byte by byte: a third of the time.
 */
const CPU = { kvm: 'host,-vmx,-svm', tcg: 'max,-vmx,-svm,-avx,-avx2,-fma,-erms,-fsrm' } as const;

/** Shared, so that the vsock device's owner can map it and a snapshot can leave it in place; or copy-on-write. */
function memoryBackend(plan: QemuPlan): object {
  const share = plan.hasPrivateMemory !== true;
  // Otherwise private pages are offered to the host's same-page merging (KSM), whose timing tells a guest what others
  // have.
  const merging = share ? {} : { merge: false };
  const common = { id: 'mem', size: plan.memoryMib * MIB, share, ...merging };
  return plan.inheritsMemory
    ? { 'qom-type': 'memory-backend-file', 'mem-path': `/proc/self/fd/${MEMORY_FD}`, ...common }
    : { 'qom-type': 'memory-backend-memfd', ...common };
}

function furtherDisk({ path, access }: VmDisk, index: number): string[] {
  const name = furtherNode(index);
  const node = access === 'read' ? readOnlyNode(name, path) : writableNode(name, path);
  const addr = (FURTHER_ADDR + index).toString(16);
  const device = `virtio-blk-pci,drive=${name},addr=${addr},romfile=`;
  return ['-blockdev', JSON.stringify(node), '-device', device];
}

function readOnlyNode(name: string, path: string): object {
  const file = { driver: 'file', filename: path, 'read-only': true, 'auto-read-only': false };
  return { 'node-name': name, driver: 'raw', 'read-only': true, file };
}

/** The disk counts only once the VM has ended, so the guest's flushes need not reach the host's disk. */
function writableNode(name: string, path: string): object {
  const cache = { direct: false, 'no-flush': true };
  const file = { driver: 'file', filename: path, discard: 'unmap', cache };
  return { 'node-name': name, driver: 'raw', discard: 'unmap', cache, file };
}

interface KernelPlan {
  readonly accelerator: 'kvm' | 'tcg';
  readonly cpus: number;
  /** Rate of the host's time stamp counter, which TCG passes to the guest; `null`: the guest measures it. */
  readonly tscKhz: number | null;
  readonly bootArgs: readonly string[];
}

/** The guest kernel's command line; `Documentation/admin-guide/kernel-parameters.txt`. */
export function kernelArgs(plan: KernelPlan): string[] {
  return [
    'console=ttyS0',
    'quiet',
    // A reboot or panic is a triple fault, which ends QEMU because of -no-reboot.
    'reboot=t',
    'panic=-1',
    // Interrupt links of ACPI would cost 160 ms at each hot plug; our devices use MSI-X.
    'acpi=noirq',
    ...(plan.accelerator === 'tcg' ? emulationArgs(plan) : []),
    'root=/dev/vda',
    'rootfstype=erofs',
    'ro',
    'init=/sbin/neurovisor-init',
    ...plan.bootArgs,
  ];
}

/**
 * With one emulated processor the HPET is the guest's timer: measuring the local APIC's timer takes Linux 110 ms, and
 * there is no way to tell it the frequency. (The PIT alone would wake an idle guest 36 times a second; several
 * processors need a timer each.)
 */
function hasOneEmulatedCpu(plan: { accelerator: 'kvm' | 'tcg'; cpus: number }): boolean {
  return plan.accelerator === 'tcg' && plan.cpus === 1;
}

/** Saves about 200 ms of boot time in software emulation. */
function emulationArgs(plan: KernelPlan): string[] {
  return [
    // Skips the check that the timer's interrupt arrives, which takes 40 ms.
    'no_timer_check',
    // Linux would remove the lock prefixes from its code, and TCG would translate it again.
    ...(hasOneEmulatedCpu(plan) ? ['noapictimer', 'noreplace-smp'] : []),
    // The guest reads the host's counter, whose rate is known: no calibration.
    ...(plan.tscKhz === null ? [] : [`tsc_early_khz=${plan.tscKhz}`, 'tsc=reliable']),
    // The first processor derives this from the line above; each other one would measure for 200 ms.
    ...(plan.tscKhz === null || plan.cpus === 1 ? [] : [`lpj=${Math.round((plan.tscKhz * 1000) / KERNEL_HZ)}`]),
  ];
}

/** CONFIG_HZ of the guest's kernel (`kernel/guest.config`). */
const KERNEL_HZ = 250;
