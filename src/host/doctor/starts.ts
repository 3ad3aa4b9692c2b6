/** Measures starts for the report: how long the phases of a boot take here, and the memory of a VMM. */
import { readFileSync } from 'node:fs';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { median } from '../../base/statistics.ts';
import { memoryBesideRam } from '../probes/host-memory.ts';
import type { Runtime } from '../runtime/runtime.ts';

/** Measured rounds, after one that does not count because it reads the image from the disk. */
export const ROUNDS = 5;
const MEMORY_MIB = 512;

/** Medians, milliseconds. */
export interface MeasuredStarts {
  readonly rounds: number;
  readonly vmm: 'qemu' | 'firecracker' | 'other';
  readonly accelerator: string;
  readonly prepareMs: number;
  /** From the VMM's spawn until guest code runs. */
  readonly vmmMs: number;
  /** From guest code to init, by the guest's clock. */
  readonly kernelMs: number;
  /** From init until the agent has answered. */
  readonly agentMs: number;
  readonly totalMs: number;
  /** The VMM's memory beside the guest's RAM (proportional set size), MiB; `null` if it could not be told apart. */
  readonly vmmMemoryMib: number | null;
}

/** @param say shows one short line of progress */
export async function measureStarts(
  runtime: Runtime,
  { signal, say }: { readonly signal: AbortSignal; readonly say: (text: string) => void },
): Promise<MeasuredStarts> {
  const rows: { times: number[]; memoryMib: number | null }[] = [];
  for (let round = 0; round <= ROUNDS; round += 1) {
    say(`start ${round} of ${ROUNDS}`);
    const sandbox = await runtime.startVm({ memoryMib: MEMORY_MIB }, signal);
    const { timings, vm } = sandbox;
    const memoryMib = vm?.pid == null ? null : vmmMemoryMib(vm.pid);
    await sandbox.stop();
    if (round === 0 || timings === undefined) continue;
    const { prepareMs, vmmMs, kernelMs, agentMs, totalMs } = timings;
    rows.push({ times: [prepareMs, vmmMs, kernelMs, agentMs, totalMs], memoryMib });
  }
  const phase = (index: number): number =>
    tenths(median(rows.flatMap(({ times }) => times[index] ?? [])) ?? Number.NaN);
  const memory = rows.flatMap(({ memoryMib }) => (memoryMib === null ? [] : [memoryMib]));
  const { name, accelerator } = runtime.driver;
  return {
    rounds: rows.length,
    vmm: name === 'qemu' || name === 'firecracker' ? name : 'other',
    accelerator,
    prepareMs: phase(0),
    vmmMs: phase(1),
    kernelMs: phase(2),
    agentMs: phase(3),
    totalMs: phase(4),
    vmmMemoryMib: median(memory) ?? null,
  };
}

const tenths = (value: number): number => Math.round(value * 10) / 10;

function vmmMemoryMib(pid: number): number | null {
  try {
    const memory = memoryBesideRam(readFileSync(`/proc/${pid}/smaps`, 'latin1'), MEMORY_MIB);
    return memory === null ? null : tenths(memory.proportionalMib);
  } catch (error) {
    ignore(error, `no memory of the VMM: ${errorCode(error)}`);
    return null;
  }
}
