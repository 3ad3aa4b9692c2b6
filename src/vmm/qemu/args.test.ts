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
  firmwarePath: '/usr/share/qemu/qboot.rom',
  inheritsMemory: false,
  hasBalloon: false,
  incoming: false,
} as const;

describe('qemuArgs', () => {
  it('qemuArgs: a whole command line, as one reads it', () => {
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
  it('qemuArgs: KVM takes the processor as it is, without nested virtualisation', () => {
    const args = qemuArgs({ ...plan, accelerator: 'kvm' });
    expect(args[args.indexOf('-accel') + 1]).toBe('kvm');
    expect(args[args.indexOf('-cpu') + 1]).toBe('host,-vmx,-svm');
  });
  it('qemuArgs: RAM may be inherited; a snapshot is waited for', () => {
    const args = qemuArgs({ ...plan, inheritsMemory: true, incoming: true });
    expect(args).toContain(
      '{"qom-type":"memory-backend-file","mem-path":"/proc/self/fd/5","id":"mem","size":268435456,"share":true}',
    );
    expect(args[args.indexOf('-incoming') + 1]).toBe('defer');
  });
  it('qemuArgs: a balloon that is no help to a guest which is out of memory', () => {
    expect(qemuArgs({ ...plan, hasBalloon: true }).slice(-2)).toEqual([
      '-device',
      'virtio-balloon-pci,id=balloon,deflate-on-oom=off,addr=7,romfile=',
    ]);
  });
  it('qemuArgs: without qboot QEMU takes its own firmware', () => {
    expect(qemuArgs({ ...plan, firmwarePath: null })).not.toContain('-bios');
  });
});

describe('kernelArgs', () => {
  const kernel = {
    accelerator: 'tcg',
    cpus: 1,
    tscKhz: 2_600_000,
    bootArgs: ['loglevel=7'],
  } as const;
  it('kernelArgs: what is asked for comes last', () => {
    expect(kernelArgs(kernel).join(' ')).toMatchInlineSnapshot(
      `"console=ttyS0 quiet reboot=t panic=-1 acpi=noirq no_timer_check noapictimer noreplace-smp tsc_early_khz=2600000 tsc=reliable root=/dev/vda rootfstype=erofs ro init=/sbin/neurovisor-init loglevel=7"`,
    );
  });
  it('kernelArgs: the timer of one emulated processor is the HPET, of others their own', () => {
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
    const config = readFileSync(join(import.meta.dirname, '../../../kernel/guest.config'), 'utf8');
    const hz = Number(/^CONFIG_HZ_(\d+)=y$/m.exec(config)?.[1]);
    expect(kernelArgs({ ...kernel, cpus: 2 })).toContain(`lpj=${2_600_000_000 / hz}`);
    expect(kernelArgs(kernel).join(' ')).not.toContain('lpj');
  });
  it('kernelArgs: the counter is told in software emulation only, and only when it is known', () => {
    expect(kernelArgs({ ...kernel, accelerator: 'kvm' }).join(' ')).not.toContain('tsc_early');
    expect(kernelArgs({ ...kernel, tscKhz: null }).join(' ')).not.toContain('tsc_early');
  });
});
