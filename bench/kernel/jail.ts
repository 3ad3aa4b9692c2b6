/** The time that the jail adds to the start of a VMM: until its program runs, with and without the jail. */

import { openVmms } from '../../prove/jail/open-vmms.ts';
import type { Vmm } from '../../prove/jail/vmm.ts';
import { systemClock } from '../../src/base/clock.ts';
import { describeError } from '../../src/base/errors.ts';
import { resolveHome } from '../../src/base/home.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { bpfDir } from '../../src/host/probes/latency.ts';
import { ObserveError } from '../../src/machine/observe/errors.ts';
import { openTracepoints, type Tracepoints } from '../../src/machine/observe/tracepoints.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';

const NAMES = ['jail.start', 'jail.spawn'] as const;
/** Names of the VMMs' processes, as the kernel truncates them. */
const PROGRAMS = ['qemu-system-x86', 'firecracker'];
const NS_PER_MS = 1e6;

/** Milliseconds until the VMM's program runs. */
interface StartTime {
  /** From the request, including the host process's preparation. */
  readonly start: number;
  /** From the first program that the host process spawned. */
  readonly spawn: number;
}

export const jailBenchmark: Benchmark = {
  names: NAMES,
  summary: 'start of a VMM until its program runs, jailed and not (root; NEUROVISOR_VMM chooses the VMM)',
  withoutRuntime: true,
  async measure(context) {
    try {
      return await measureStarts(context);
    } catch (error) {
      if (!(error instanceof ObserveError)) throw error;
      const note = describeError(error);
      return NAMES.map((name) => measurement(name, { samples: [], others: [], failed: 1, note }));
    }
  },
};

async function measureStarts(context: BenchContext): Promise<Measurement[]> {
  const { config, log, rounds, signal, say } = context;
  await using vmms = await openVmms({ config, log });
  const jailed: StartTime[] = [];
  const free: StartTime[] = [];
  const execs: { readonly atNs: bigint; readonly comm: string }[] = [];
  const tracepoints = await openTracepoints({
    dir: bpfDir(resolveHome(config.home)),
    clock: systemClock,
    onEvent: (event) => {
      if (event.kind === 'exec') execs.push(event);
    },
  });
  using watched = tracepoints;
  // The first round fills the page cache and is not counted.
  for (let round = 0; round <= rounds; round += 1) {
    say(`VMM ${round} of ${rounds}`);
    signal.throwIfAborted();
    for (const [start, into] of [
      [() => vmms.jailed(), jailed],
      [() => vmms.free(), free],
    ] as const) {
      const time = await timeOf(start, watched, execs);
      if (round > 0) into.push(time);
    }
  }
  const of = (times: readonly StartTime[], what: keyof StartTime): number[] => times.map((time) => time[what]);
  return [
    measurement('jail.start', {
      samples: of(jailed, 'start'),
      others: of(free, 'start'),
      note: `of ${vmms.traits.name}, from the request: with the group, the files and the mounts that are prepared`,
    }),
    measurement('jail.spawn', {
      samples: of(jailed, 'spawn'),
      others: of(free, 'spawn'),
      note: 'from the first program of the chain that ends in the VMM',
    }),
  ];
}

async function timeOf(
  start: () => Promise<Vmm>,
  tracepoints: Tracepoints,
  execs: { readonly atNs: bigint; readonly comm: string }[],
): Promise<StartTime> {
  const id = newSandboxId();
  tracepoints.watch(id, process.pid);
  execs.length = 0;
  const beganNs = process.hrtime.bigint();
  const vmm = await start();
  try {
    tracepoints.poll();
  } finally {
    await vmm.end();
    tracepoints.forget(id);
  }
  const [first] = execs;
  const program = execs.find(({ comm }) => PROGRAMS.includes(comm));
  if (first === undefined || program === undefined)
    throw new Error(`no VMM among the programs: ${execs.map(({ comm }) => comm).join(', ')}`);
  const msSince = (ns: bigint): number => Number(program.atNs - ns) / NS_PER_MS;
  return { start: msSince(beganNs), spawn: msSince(first.atNs) };
}

function measurement(
  name: (typeof NAMES)[number],
  {
    samples,
    others,
    failed = 0,
    note,
  }: {
    readonly samples: readonly number[];
    readonly others: readonly number[];
    readonly failed?: number;
    readonly note: string;
  },
): Measurement {
  const baseline = failed > 0 ? null : { name: 'without a jail', samples: others };
  return { name, unit: 'ms', accelerator: 'none', samples, baseline, failed, note };
}
