import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { kernelArgs, qemuArgs } from './args.ts';

const plan = {
  accelerator: 'tcg',
  cpus: 2,
  memoryMib: 256,
  kernelPath: '/k/vmlinux',
  kernelArgs: ['a', 'b=c'],
  rootImagePath: '/i/root.erofs',
  overlayPath: '/run/x/disk.ext4',
  disks: [],
  firmwarePath: '/usr/share/qemu/qboot.rom',
  inheritsMemory: false,
  hasBalloon: false,
  incoming: false,
} as const;

describe('qemuArgs', () => {
  it('qemuArgs: builds the whole command line', () => {
    expect(
      qemuArgs(plan)
        .join(' ')
        .split(/ (?=-)/),
    ).toMatchInlineSnapshot(`
      [
        "-nodefaults",
        "-no-user-config",
        "-display none",
        "-no-reboot",
        "-S",
        "-name neurovisor",
        "-machine pc,hpet=off,vmport=off,memory-backend=mem",
        "-accel tcg,tb-size=128",
        "-cpu max,-vmx,-svm,-avx,-avx2,-fma,-erms,-fsrm",
        "-smp cpus=2,maxcpus=2",
        "-m 256M",
        "-object {"qom-type":"memory-backend-memfd","id":"mem","size":268435456,"share":true}",
        "-bios /usr/share/qemu/qboot.rom",
        "-kernel /k/vmlinux",
        "-append a b=c",
        "-chardev socket,id=qmp,fd=3",
        "-mon chardev=qmp,mode=control",
        "-chardev socket,id=serial,fd=4",
        "-serial chardev:serial",
        "-blockdev {"node-name":"root","driver":"raw","read-only":true,"file":{"driver":"file","filename":"/i/root.erofs","read-only":true,"auto-read-only":false}}",
        "-device virtio-blk-pci,drive=root,addr=2,romfile=",
        "-blockdev {"node-name":"overlay","driver":"raw","discard":"unmap","cache":{"direct":false,"no-flush":true},"file":{"driver":"file","filename":"/run/x/disk.ext4","discard":"unmap","cache":{"direct":false,"no-flush":true}}}",
        "-device virtio-blk-pci,drive=overlay,addr=3,romfile=",
        "-object rng-builtin,id=rng",
        "-device virtio-rng-pci,rng=rng,addr=4,romfile=",
      ]
    `);
  });
  it('qemuArgs: KVM gets the host processor, without nested virtualization', () => {
    const args = qemuArgs({ ...plan, accelerator: 'kvm' });
    expect(args[args.indexOf('-accel') + 1]).toBe('kvm');
    expect(args[args.indexOf('-cpu') + 1]).toBe('host,-vmx,-svm');
  });
  it('qemuArgs: uses inherited RAM, and waits for a snapshot', () => {
    const args = qemuArgs({ ...plan, inheritsMemory: true, incoming: true });
    expect(args).toContain(
      '{"qom-type":"memory-backend-file","mem-path":"/proc/self/fd/5","id":"mem","size":268435456,"share":true}',
    );
    expect(args[args.indexOf('-incoming') + 1]).toBe('defer');
  });
  it('qemuArgs: pages of privately mapped RAM are not offered for merging', () => {
    const args = qemuArgs({ ...plan, inheritsMemory: true, hasPrivateMemory: true });
    expect(args).toContain(
      '{"qom-type":"memory-backend-file","mem-path":"/proc/self/fd/5","id":"mem","size":268435456,"share":false,"merge":false}',
    );
  });
  it('qemuArgs: the balloon does not deflate on OOM', () => {
    expect(qemuArgs({ ...plan, hasBalloon: true }).slice(-2)).toEqual([
      '-device',
      'virtio-balloon-pci,id=balloon,deflate-on-oom=off,addr=7,romfile=',
    ]);
  });
  it('qemuArgs: extra disks follow in order; a read-only one is read-only at the device', () => {
    const disks = [
      { path: '/i/tools', access: 'read' },
      { path: '/run/x/out', access: 'write' },
    ] as const;
    const args = qemuArgs({ ...plan, disks });
    const [tools = '', first, out = '', second] = args.slice(-8).filter((arg) => !arg.startsWith('-'));
    expect([first, second]).toEqual([
      'virtio-blk-pci,drive=disk0,addr=8,romfile=',
      'virtio-blk-pci,drive=disk1,addr=9,romfile=',
    ]);
    expect(JSON.parse(tools)).toMatchObject({ 'read-only': true, file: { filename: '/i/tools' } });
    expect(JSON.parse(out)['read-only']).toBeUndefined();
  });
  it('qemuArgs: without qboot, QEMU uses its own firmware', () => {
    expect(qemuArgs({ ...plan, firmwarePath: null })).not.toContain('-bios');
  });
});

describe('kernelArgs', () => {
  const kernel = { accelerator: 'tcg', cpus: 1, tscKhz: 2_600_000, bootArgs: ['loglevel=7'] } as const;
  it('kernelArgs: puts requested arguments last', () => {
    expect(kernelArgs(kernel).join(' ')).toMatchInlineSnapshot(
      `"console=ttyS0 quiet reboot=t panic=-1 acpi=noirq no_timer_check noapictimer noreplace-smp tsc_early_khz=2600000 tsc=reliable root=/dev/vda rootfstype=erofs ro init=/sbin/neurovisor-init loglevel=7"`,
    );
  });
  it('kernelArgs: one emulated processor uses the HPET, several use their own timers', () => {
    const machine = (args: string[]) => args[args.indexOf('-machine') + 1];
    for (const [accelerator, cpus, hpet] of [
      ['tcg', 1, true],
      ['tcg', 2, false],
      ['kvm', 1, false],
    ] as const) {
      expect(kernelArgs({ ...kernel, accelerator, cpus }).includes('noapictimer')).toBe(hpet);
      expect(machine(qemuArgs({ ...plan, accelerator, cpus }))?.includes('hpet=on')).toBe(hpet);
    }
  });
  it('kernelArgs: loops per tick fit the tick of the kernel that we build', () => {
    const config = readFileSync(join(import.meta.dirname, '../../../../kernel/guest.config'), 'utf8');
    const hz = Number(/^CONFIG_HZ_(\d+)=y$/m.exec(config)?.[1]);
    expect(kernelArgs({ ...kernel, cpus: 2 })).toContain(`lpj=${2_600_000_000 / hz}`);
    expect(kernelArgs(kernel).join(' ')).not.toContain('lpj');
  });
  it('kernelArgs: passes the counter only in software emulation, and only if known', () => {
    expect(kernelArgs({ ...kernel, accelerator: 'kvm' }).join(' ')).not.toContain('tsc_early');
    expect(kernelArgs({ ...kernel, tscKhz: null }).join(' ')).not.toContain('tsc_early');
  });
});
