/** docs/firecracker.md explains exactly the arguments of the guests' kernels. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import * as firecracker from '../../src/machine/vmm/firecracker/config.ts';
import * as qemu from '../../src/machine/vmm/qemu/args.ts';
import { TEMPLATE_BOOT_ARGS } from '../../src/sandbox/start/template.ts';

const DOCUMENT = join(import.meta.dirname, '../../docs/firecracker.md');
/** Added by Firecracker. */
const ADDED = ['pci=off', 'root=/dev/vda', 'ro', 'virtio_mmio.device=…'];

/** Arguments with a machine-dependent value end with `=…`. */
function tableOf(vmm: string): string[] {
  const section = /\n## Kernel command line\n(.*?)\n## /s.exec(readFileSync(DOCUMENT, 'utf8'))?.[1];
  const rows = [...(section ?? '').matchAll(/^\| `([^`]+)` \| ([^|]+) \|/gm)];
  return rows
    .filter(([, , who = '']) => (who.startsWith('both') || who.startsWith(vmm)) && !who.includes('templ'))
    .map(([, argument = '']) => argument)
    .sort();
}

const general = (args: readonly string[]): string[] =>
  [...new Set(args.map((one) => one.replace(/^(tsc_early_khz|lpj)=\d+$/, '$1=…')))].sort();

it('documents the kernel command line of Firecracker', () => {
  const args = firecracker.kernelArgs({ bootArgs: [] });
  expect(tableOf('Firecracker')).toEqual(general([...args, ...ADDED]));
  expect(args.join(' ')).toContain('reboot=k panic=1');
});

it('documents the kernel command line of QEMU, with and without KVM', () => {
  const args = [1, 2].flatMap((cpus) =>
    (['kvm', 'tcg'] as const).flatMap((accelerator) =>
      qemu.kernelArgs({ accelerator, cpus, tscKhz: 2_000_000, bootArgs: [] }),
    ),
  );
  expect(tableOf('QEMU')).toEqual(general(args));
});

it('documents the arguments of templates', () => {
  for (const one of TEMPLATE_BOOT_ARGS) {
    expect(readFileSync(DOCUMENT, 'utf8')).toContain(`| \`${one}\` | both, templates |`);
  }
});
