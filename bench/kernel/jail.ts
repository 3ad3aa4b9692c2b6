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
import { compare, rowsOf } from '../compare.ts';

const NAMES = ['jail.start', 'jail.spawn'] as const;
/** Names of the VMMs' processes, as the kernel truncates them. */
const PROGRAMS = ['qemu-system-x86', 'firecracker'];
const NS_PER_MS = 1e6;
const row = rowsOf('ms', 'none');

/** Milliseconds until the VMM's program runs. */
type StartTime = {
  /** From the request, including the host process's preparation. */
  readonly start: number;
  /** From the first program that the host process spawned. */
  readonly spawn: number;
};

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
      return NAMES.map((name) => row(name, [], null, { failed: 1, note }));
    }
  },
};

async function measureStarts(context: BenchContext): Promise<Measurement[]> {
  const { config, log } = context;
  await using vmms = await openVmms({ config, log });
  const execs: { readonly atNs: bigint; readonly comm: string }[] = [];
  const tracepoints = await openTracepoints({
    dir: bpfDir(resolveHome(config.home)),
    clock: systemClock,
    onEvent: (event) => {
      if (event.kind === 'exec') execs.push(event);
    },
  });
  using watched = tracepoints;
  const { jailed, free } = await compare(context, 'VMM', {
    jailed: () => timeOf(() => vmms.jailed(), watched, execs),
    free: () => timeOf(() => vmms.free(), watched, execs),
  });
  const measured = (name: (typeof NAMES)[number], figure: keyof StartTime, note: string): Measurement =>
    row(name, jailed(figure), ['without a jail', free(figure)], { note });
  const { name } = vmms.traits;
  return [
    measured(
      'jail.start',
      'start',
      `of ${name}, from the request: with the group, the files and the mounts that are prepared`,
    ),
    measured('jail.spawn', 'spawn', 'from the first program of the chain that ends in the VMM'),
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
