/** The memory of one VMM beside its guest's RAM: the cost of each sandbox on top of its guest's usage. */
import { readFile } from 'node:fs/promises';
import { openVmms } from '../../prove/jail/open-vmms.ts';
import { MEMORY_MIB } from '../../prove/jail/vmm.ts';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { type MappedMemory, mappedMemory, memoryBesideRam } from '../../src/host/probes/host-memory.ts';
import { DEFAULTS } from '../../src/sandbox/contract/limits.ts';
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { printOneMs } from '../output.ts';
import { openOwnRuntime } from '../own-runtime.ts';

/** Concurrent VMMs, which share their program's pages. A sample is their mean. */
const TOGETHER = 4;
const STATES = ['empty', 'boot', 'clone'] as const;
type State = (typeof STATES)[number];

const namesOf = (state: State): string[] => [`vmm.memory/${state}`, `vmm.memory/${state}-private`];
const LINUX_NAMES = (['boot', 'clone'] as const).flatMap(namesOf);

const NOTES: Readonly<Record<State, string>> = {
  empty: 'QEMU: no machine; Firecracker: a guest of two instructions, with a disk',
  boot: 'after the first script of a sandbox that booted',
  clone: 'after the first script of a clone of the default template',
};

export const vmmMemoryBenchmark: Benchmark = {
  names: STATES.flatMap(namesOf),
  summary: `memory of a VMM (of ${TOGETHER}) beside its guest’s RAM: empty, after a boot, of a clone (NEUROVISOR_VMM chooses it)`,
  // Firecracker's empty VM runs where no Linux does.
  withoutRuntime: true,
  async measure(context) {
    const { signal, wants } = context;
    const attempts = { empty: new Attempts(signal), linux: new Attempts(signal) };
    const empty = await attempts.empty.run(() => measureEmpty(context));
    const isLinuxWanted = LINUX_NAMES.some(wants);
    const linux = isLinuxWanted ? await attempts.linux.run(() => measureLinux(context)) : undefined;
    const samples: Readonly<Record<State, readonly MappedMemory[]>> = {
      empty: empty ?? [],
      boot: linux?.boot ?? [],
      clone: linux?.clone ?? [],
    };
    return STATES.flatMap((state) => {
      const accelerator = state === 'empty' ? 'none' : (linux?.accelerator ?? 'none');
      const failures = attempts[state === 'empty' ? 'empty' : 'linux'].failures(NOTES[state]);
      const common = { unit: 'MiB', accelerator, ...failures } as const;
      const shares = sharesOf(samples[state]);
      return [
        {
          ...common,
          name: `vmm.memory/${state}`,
          samples: shares,
          baseline: state === 'empty' ? null : { name: 'empty', samples: sharesOf(samples.empty) },
        },
        {
          ...common,
          name: `vmm.memory/${state}-private`,
          samples: samples[state].map(({ privateMib }) => privateMib),
          baseline: { name: 'with its share of common pages', samples: shares },
        },
      ] satisfies Measurement[];
    });
  },
};

const sharesOf = (samples: readonly MappedMemory[]): number[] => samples.map(({ proportionalMib }) => proportionalMib);

async function measureEmpty(context: BenchContext): Promise<MappedMemory[]> {
  await using vmms = await openVmms(context);
  return await measureRounds(context, 'empty', async (cleanup) => {
    const vmm = await vmms.jailed();
    cleanup.push('VMM', () => vmm.end());
    return { pid: vmm.pid, ramMib: MEMORY_MIB };
  });
}

interface LinuxSamples {
  readonly accelerator: string;
  readonly boot: readonly MappedMemory[];
  readonly clone: readonly MappedMemory[];
}

async function measureLinux(context: BenchContext): Promise<LinuxSamples> {
  const { signal } = context;
  const runtime = await openOwnRuntime(context);
  try {
    const { spec, source } = await runtime.templates.prepare(DEFAULT_TEMPLATE);
    const of = (state: 'boot' | 'clone'): Promise<MappedMemory[]> =>
      measureRounds(context, state, async (cleanup) => {
        const sandbox = await (state === 'boot'
          ? runtime.startVm({}, signal)
          : runtime.startVm({ warm: spec.warm }, signal, { template: source }));
        cleanup.push('sandbox', () => sandbox.stop());
        await printOneMs(sandbox.guest(), signal);
        return { pid: sandbox.vm?.pid ?? 0, ramMib: DEFAULTS.memoryMib };
      });
    const [boot, clone] = [await of('boot'), await of('clone')];
    return { accelerator: runtime.driver.accelerator, boot, clone };
  } finally {
    await runtime.close();
  }
}

async function measureRounds(
  { rounds, signal, say }: BenchContext,
  state: State,
  start: (cleanup: CleanupStack) => Promise<{ readonly pid: number; readonly ramMib: number }>,
): Promise<MappedMemory[]> {
  const samples: MappedMemory[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    say(`${state} ${round} of ${rounds}`);
    signal.throwIfAborted();
    await using cleanup = new CleanupStack();
    const started: Awaited<ReturnType<typeof start>>[] = [];
    while (started.length < TOGETHER) started.push(await start(cleanup));
    const memories = await Promise.all(started.map(memoryOf));
    const mean = (what: keyof MappedMemory): number =>
      memories.reduce((sum, memory) => sum + memory[what], 0) / memories.length;
    samples.push({
      proportionalMib: mean('proportionalMib'),
      privateMib: mean('privateMib'),
      anonymousMib: mean('anonymousMib'),
    });
  }
  return samples;
}

/** QEMU without a machine has no RAM. */
async function memoryOf({ pid, ramMib }: { readonly pid: number; readonly ramMib: number }): Promise<MappedMemory> {
  const maps = await readFile(`/proc/${pid}/smaps`, 'latin1');
  return memoryBesideRam(maps, ramMib) ?? mappedMemory(maps, () => true);
}
