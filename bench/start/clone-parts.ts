/** The time of a clone's start, part by part, and the CPU time of its VMM, which a busy machine changes less. */
import { readdir, readFile } from 'node:fs/promises';
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import type { Benchmark } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
import { startClone } from './clone.ts';

/** In order; all in milliseconds; their sum is the whole, except for the supervisor's work between them. */
const NOTES = {
  prepare: 'directory, disk, RAM mapped, sockets',
  spawn: 'files of the jail, control group, the first program of the chain',
  jail: 'its namespaces and mounts',
  vmm: 'QEMU until its first answer',
  load: 'RAM whole, devices loaded; the socket of the vsock device',
  plug: 'vsock device, limits; the guest runs',
  device: 'the guest: hot plug, probe, until the agent has dialed',
  hello: 'the guest: its first line is here',
  identity: 'the guest: identity applied and confirmed',
  cpu: 'processor time of the VMM until then, with that of the guest',
} as const;
type Part = keyof typeof NOTES;
const PARTS = Object.keys(NOTES) as Part[];

export const clonePartsBenchmark: Benchmark = {
  names: PARTS.map((part) => `clone.part/${part}`),
  summary: 'where the time of a start from the template goes, and the processor time of its VMM',
  async measure(context) {
    const { runtime, signal } = context;
    await runtime.templates.prepare(DEFAULT_TEMPLATE);
    const { clone } = await compare(context, 'clone', {
      clone: async () => {
        const sandbox = await startClone(runtime, signal);
        try {
          return await partsOf(sandbox);
        } finally {
          await sandbox.stop();
        }
      },
    });
    const row = rowsOf('ms', runtime.driver.accelerator);
    return PARTS.map((part) => row(`clone.part/${part}`, clone(part), null, { note: NOTES[part] }));
  },
};

async function partsOf(sandbox: Supervisor): Promise<Record<Part, number>> {
  const cpu = await processorMs(sandbox.vm?.pid ?? 0);
  const { timings, vm } = sandbox;
  if (timings === undefined || vm === undefined) throw new Error('the sandbox has no VM');
  const { spawnedMs, confinedMs, greetedMs, loadedMs, runningMs } = vm.timings;
  if (confinedMs === undefined || greetedMs === undefined || loadedMs === undefined)
    throw new Error('this VMM does not tell the parts of its start: set NEUROVISOR_VMM=qemu');
  const { readyMs, helloMs } = sandbox.guest().info;
  return {
    prepare: timings.prepareMs,
    spawn: spawnedMs,
    jail: confinedMs - spawnedMs,
    vmm: greetedMs - confinedMs,
    load: loadedMs - greetedMs,
    plug: runningMs - loadedMs,
    device: timings.agentMs - readyMs,
    hello: readyMs - helloMs,
    identity: helloMs,
    cpu,
  };
}

/** CPU time of all live threads, by the scheduler's accounting (proc_pid_schedstat: nanoseconds first). */
async function processorMs(pid: number): Promise<number> {
  const dir = `/proc/${pid}/task`;
  let totalNs = 0;
  for (const thread of await readdir(dir)) {
    const [ns = '0'] = (await readFile(`${dir}/${thread}/schedstat`, 'latin1')).split(' ');
    totalNs += Number(ns);
  }
  return totalNs / 1e6;
}
