/** The report as Markdown that GitHub renders. Pure. */
import type { HostReport } from './report.ts';

/** Ends with a line break. */
export function reportText(report: HostReport): string {
  const { processor, kvm, cgroups, jail } = report;
  const rows: [string, string][] = [
    [
      'NeuroVisor',
      `${report.neurovisor}, Node ${report.node}, as ${report.user === 'root' ? 'root' : 'an ordinary user'}`,
    ],
    ['host', `${report.distribution}, Linux ${report.kernel}, ${report.memoryGib} GiB`],
    [
      'processor',
      `${processor.model}, ${processor.cpus} CPUs, ${processor.virtualization}, ${processor.nested ? 'a virtual machine' : 'bare metal'}`,
    ],
    [
      'VMMs',
      `QEMU ${report.qemu ?? 'none'}, Firecracker ${report.firecracker ?? 'none'}, jailer ${report.jailer ?? 'none'}; used: ${report.vmm ?? 'none'}`,
    ],
    ['accelerator', report.accelerator],
    ['KVM', `${kvm.usable ? 'usable' : 'not usable'}: ${kvm.reason}${kvm.cached ? ' (probed before)' : ''}`],
    ['KVM steps', kvm.steps.map(stepText).join(', ') || 'none'],
    ['control groups', `${cgroups.version}; limits of ${cgroups.controllers.join(', ') || 'nothing'}`],
    ['jail', `${jail.mode}, ${jail.state}: ${jail.description}`],
    ...jail.gaps.map((gap): [string, string] => ['jail lacks', gap]),
    ['seccomp', report.seccomp.join(' ') || 'none'],
    ['starts', startsText(report.starts)],
  ];
  const lines = rows.map(([name, text]) => `| ${name} | ${cell(text)} |`);
  return ['### neurovisor doctor --report', '', '| | |', '|---|---|', ...lines, ''].join('\n');
}

function stepText({ step, ms, instructionsPerSecond, error }: HostReport['kvm']['steps'][number]): string {
  const time = ms === null ? '' : ` ${ms} ms`;
  const rate = instructionsPerSecond === null ? '' : ` (${Math.round(instructionsPerSecond / 1e6)} M/s)`;
  return `${step}${time}${rate}${error === null ? '' : ` failed: ${error}`}`;
}

function startsText(starts: HostReport['starts']): string {
  if ('skipped' in starts) return `skipped: ${starts.skipped}`;
  const { vmm, accelerator, rounds, vmmMemoryMib } = starts;
  const memory = vmmMemoryMib === null ? '' : `; VMM beside the guest's RAM: ${vmmMemoryMib} MiB`;
  return `${vmm}, ${accelerator}, median of ${rounds}: prepare ${starts.prepareMs}, VMM ${starts.vmmMs}, kernel ${starts.kernelMs}, agent ${starts.agentMs}, ready ${starts.totalMs} ms${memory}`;
}

function cell(text: string): string {
  return text.replaceAll(/[|\\]/g, String.raw`\$&`).replaceAll('<', '&lt;').replaceAll('@', '&#64;');
}
