/**
 * The work of a boot: the guest's instructions of each stage, counted in software emulation. They do not depend on the
 * speed of the machine, so they also estimate a boot on real hardware (docs/benchmarks.md).
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sleep } from '../../src/base/clock.ts';
import type { Runtime } from '../../src/host/runtime/runtime.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { openOwnRuntime } from '../own-runtime.ts';
import { InstructionCounter, type StageCount } from './count-instructions.ts';
import { REFERENCE_CHOICE, REFERENCE_NAME, referenceKernel } from './reference-kernel.ts';

const MILLION = 1e6;
/** The guest is idle when it executes fewer instructions, in millions, than timers need in this time. */
const IDLE_LOOK_MS = 500;
const IDLE_MAX = 0.5;
const IDLE_LOOKS_MAX = 120;

/** Millions of instructions, unless noted. */
interface Work {
  /** Milliseconds on the host from the request to the guest's first instruction. */
  readonly vmm: number;
  readonly firmware: number;
  readonly kernel: number;
  readonly init: number;
  readonly agent: number;
  /** Sum of all until the agent has answered. */
  readonly total: number;
  /** The agent's part: programs, without the kernel on their behalf. */
  readonly python: number;
  /** After that, until the guest is idle: the fork server imports its modules. */
  readonly after: number;
}

const NOTES: Readonly<Record<keyof Work, string>> = {
  vmm: 'on the host, until the first instruction of the guest',
  firmware: 'qboot, and the kernel before it has mapped itself',
  kernel: 'until init',
  init: 'mounts and limits, until Python',
  agent: 'until it is confirmed; what it does at once afterwards may be included',
  total: 'the four stages before',
  python: 'of the agent: without the kernel on its behalf',
  after: 'from then on until the guest is idle',
};
const PARTS = Object.keys(NOTES) as (keyof Work)[];

export const workBenchmark: Benchmark = {
  names: PARTS.map((part) => `boot.work/${part}`),
  summary: `instructions of a boot by stage: firmware, kernel, init, agent (QEMU 7.2 to 8.1, TCG); ${REFERENCE_CHOICE}`,
  withoutRuntime: true,
  async measure(context) {
    const dir = await mkdtemp(join(tmpdir(), 'nv-bench-'));
    try {
      const counter = await InstructionCounter.make(dir);
      const own = await measureBoots(context, counter, {});
      const kernelPath = referenceKernel(context.config.home);
      const other = kernelPath === null ? [] : await measureBoots(context, counter, { kernelPath });
      return PARTS.map((part) => measurement(part, own, other));
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  },
};

function measurement(part: keyof Work, own: readonly Work[], other: readonly Work[]): Measurement {
  const of = (boots: readonly Work[]): number[] => boots.map((boot) => boot[part]);
  return {
    name: `boot.work/${part}`,
    unit: part === 'vmm' ? 'ms' : 'M instructions',
    accelerator: 'tcg',
    samples: of(own),
    baseline: other.length === 0 ? null : { name: REFERENCE_NAME, samples: of(other) },
    note: NOTES[part],
  };
}

async function measureBoots(
  context: BenchContext,
  counter: InstructionCounter,
  kernel: { readonly kernelPath?: string },
): Promise<Work[]> {
  const { rounds, signal, say } = context;
  // No jail, which would hide the plugin. The guest's instructions are the same.
  const runtime = await openOwnRuntime(
    context,
    { ...kernel, aroundLaunch: counter.around },
    { jail: 'off', vmm: 'qemu', accelerator: 'tcg' },
  );
  try {
    const boots: Work[] = [];
    for (let round = 1; round <= rounds; round += 1) {
      say(`${kernel.kernelPath === undefined ? 'boot' : 'reference boot'} ${round} of ${rounds}`);
      boots.push(await measureBoot(runtime, counter, signal));
    }
    return boots;
  } finally {
    await runtime.close();
  }
}

async function measureBoot(runtime: Runtime, counter: InstructionCounter, signal: AbortSignal): Promise<Work> {
  const sandbox = await runtime.startVm({}, signal);
  try {
    const { firmware, kernel, init, agent } = await counter.read();
    const stages = [firmware, kernel, init, agent].map(sum);
    const [inFirmware = 0, inKernel = 0, inInit = 0, inAgent = 0] = stages;
    const { timings } = sandbox;
    return {
      vmm: (timings?.prepareMs ?? 0) + (timings?.vmmMs ?? 0),
      firmware: inFirmware,
      kernel: inKernel,
      init: inInit,
      agent: inAgent,
      total: stages.reduce((all, one) => all + one, 0),
      python: agent.user / MILLION,
      after: (await whenIdle(counter, signal)) - inAgent,
    };
  } finally {
    await sandbox.stop();
  }
}

/** Millions of instructions of the agent's stage once the guest is idle. */
async function whenIdle(counter: InstructionCounter, signal: AbortSignal): Promise<number> {
  let before = sum((await counter.read()).agent);
  for (let looks = 0; looks < IDLE_LOOKS_MAX; looks += 1) {
    await sleep(IDLE_LOOK_MS, signal);
    const now = sum((await counter.read()).agent);
    if (now - before < IDLE_MAX) return now;
    before = now;
  }
  throw new Error('the guest does not become idle');
}

const sum = ({ user, kernel }: StageCount): number => (user + kernel) / MILLION;
