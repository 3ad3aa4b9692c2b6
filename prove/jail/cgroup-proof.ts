/** Proves that a VMM that exceeds its limits on the host is stopped, and nothing else. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describeError } from '../../src/base/errors.ts';
import { MIB } from '../../src/base/units.ts';
import { type Cgroup, Cgroups } from '../../src/machine/jail/cgroup.ts';
import { findCgroups } from '../../src/machine/jail/cgroup-paths.ts';
import type { CgroupLimits } from '../../src/machine/jail/cgroup-settings.ts';
import { memoryLimitMib, TASKS_MAX } from '../../src/machine/jail/jail.ts';
import { ProofError } from '../errors.ts';
import { Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { Injector } from './inject.ts';
import { openVmms } from './open-vmms.ts';
import { MEMORY_MIB, type Vmms } from './vmm.ts';

const LIMITS: CgroupLimits = { memoryBytes: 96 * MIB, tasks: 8, cpus: 1 };
const [LITTLE, MUCH] = [32, 192];
const [FEW, MANY] = [4, 32];

export async function proveCgroup(context: JailContext): Promise<Proof> {
  const notes = new Notes();
  await using injector = await Injector.make();
  await using vmms = await openVmms(context);
  const cgroups = openCgroups();
  await limited(notes, vmms);
  const act = async (words: readonly string[], limits: CgroupLimits | null): Promise<string> => {
    const worker = injector.worker(...words);
    const group: Cgroup | undefined = limits === null ? undefined : cgroups.create('prove', limits);
    group?.add(worker.pid);
    try {
      return await worker.go();
    } finally {
      await group?.remove();
    }
  };
  const touched = (mib: number): string => `touched ${mib} MiB`;
  notes.same(`control: ${LITTLE} MiB of 96`, touched(LITTLE), await act(['eat', `${LITTLE}`], LIMITS));
  notes.same(`${MUCH} MiB of 96`, 'killed by SIGKILL', await act(['eat', `${MUCH}`], LIMITS));
  notes.same(`control: ${MUCH} MiB without a limit`, touched(MUCH), await act(['eat', `${MUCH}`], null));
  notes.same(`control: ${FEW} processes of 8`, `made ${FEW}`, await act(['spawn', `${FEW}`], LIMITS));
  // The process that forks is one of the eight.
  notes.same(`${MANY} processes of 8`, 'made 7', await act(['spawn', `${MANY}`], LIMITS));
  notes.same(`control: ${MANY} processes without a limit`, `made ${MANY}`, await act(['spawn', `${MANY}`], null));
  return notes.proof('cgroup');
}

/** A VMM is in a group with the limits for its guest's size. */
async function limited(notes: Notes, vmms: Vmms): Promise<void> {
  const vmm = await vmms.jailed();
  const { v1, v2 } = groupsOf(vmm.pid);
  const read = (controller: 'memory' | 'pids', names: readonly string[]): string => {
    const dir = v1.get(controller) ?? v2?.dir ?? '';
    for (const name of names) {
      try {
        return readFileSync(join(dir, name), 'latin1').trim();
      } catch (error) {
        if (name === names.at(-1)) return describeError(error);
      }
    }
    return '';
  };
  const memory = String(memoryLimitMib(MEMORY_MIB) * MIB);
  notes.same(
    `memory of a VMM, ${MEMORY_MIB} MiB of RAM and its own`,
    memory,
    read('memory', ['memory.max', 'memory.limit_in_bytes']),
  );
  notes.same('its processes and threads', String(TASKS_MAX + 1), read('pids', ['pids.max']));
  await vmm.end();
}

function groupsOf(pid: number | 'self'): ReturnType<typeof findCgroups> {
  const read = (path: string): string => readFileSync(path, 'utf8');
  return findCgroups(read('/proc/self/mountinfo'), read(`/proc/${pid}/cgroup`));
}

function openCgroups(): Cgroups {
  const cgroups = new Cgroups(groupsOf('self'));
  const { missing } = cgroups;
  if (missing === null) return cgroups;
  throw new ProofError('no_world', 'could not make a control group', {
    cause: `no limit of ${missing.names}: ${missing.cause}`,
    remedy: `Run it where these controllers can be used: ${missing.remedy}.`,
  });
}
