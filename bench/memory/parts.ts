/** The memory of an idle clone, part by part, by the kernel's accounting (proc(5)). */
import { readFile } from 'node:fs/promises';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { isGuestRam, type Mapping, mappedMemory } from '../../src/host/probes/host-memory.ts';
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { parentOf } from '../../src/sys/process-start.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';

/** Concurrent clones, which share programs and the template's RAM. A sample is their mean. */
const TOGETHER = 4;
const KIB_PER_MIB = 1024;

/** The parts that belong to one clone; their sum is `own`. */
const OWN_NOTES = {
  ram: 'pages that the guest has changed',
  code: 'translated code, with the descriptions of its blocks',
  tables: 'of the VMM: where translated code is, ACPI tables, heaps of threads, stacks',
  heap: 'heap of the VMM',
  programs: 'data of the VMM and its libraries, which the linker has relocated',
  'page-tables': 'page tables of the VMM',
  jail: 'the process of the jail that waits for the VMM, with its page tables',
} as const;
const SHARED_NOTES = {
  'shared-programs': 'its part of the programs of VMMs',
  'shared-ram': "its part of the template's RAM",
} as const;
const NOTES = { own: 'all that one clone has alone', ...OWN_NOTES, ...SHARED_NOTES } as const;
type OwnPart = keyof typeof OWN_NOTES;
type Part = keyof typeof NOTES;
type Parts = Readonly<Record<Part, number>>;
const PARTS = Object.keys(NOTES) as Part[];

const nameOf = (part: Part): string => `sandbox.memory/part/${part}`;

export const memoryPartsBenchmark: Benchmark = {
  names: PARTS.map(nameOf),
  summary: `where the memory of an idle clone (of ${TOGETHER}) goes`,
  async measure(context) {
    const { runtime, signal } = context;
    await runtime.templates.prepare(DEFAULT_TEMPLATE);
    const attempts = new Attempts(signal);
    const ways = { own: () => attempts.run(() => measureClones(context)) };
    const { own } = await compare(context, 'parts of the memory,', ways, { warmUp: false });
    const row = rowsOf('MiB', runtime.driver.accelerator);
    return PARTS.map((part) => row(nameOf(part), own(part), null, attempts.failures(NOTES[part])));
  },
};

async function measureClones({ runtime, signal }: BenchContext): Promise<Parts> {
  await using cleanup = new CleanupStack();
  const { spec, source } = await runtime.templates.prepare(DEFAULT_TEMPLATE);
  const clones: Supervisor[] = [];
  while (clones.length < TOGETHER) {
    const clone = await runtime.startVm({ warm: spec.warm }, signal, { template: source });
    cleanup.push('sandbox', () => clone.stop());
    clones.push(clone);
  }
  const all = await Promise.all(clones.map(({ vm }) => partsOf(vm?.pid ?? 0)));
  const mean = (part: Part): number => all.reduce((sum, one) => sum + one[part], 0) / all.length;
  return Object.fromEntries(PARTS.map((part) => [part, mean(part)])) as Parts;
}

async function partsOf(pid: number): Promise<Parts> {
  const maps = await readFile(`/proc/${pid}/smaps`, 'latin1');
  const of = (isWanted: (mapping: Mapping) => boolean) => mappedMemory(maps, isWanted);
  const [ram, programs] = [of(isRam), of((mapping) => isFile(mapping) && !isRam(mapping))];
  const own: Readonly<Record<OwnPart, number>> = {
    ram: ram.anonymousMib,
    code: of((mapping) => !isFile(mapping) && mapping.isCode).anonymousMib,
    tables: of((mapping) => !(isFile(mapping) || mapping.isCode || isHeap(mapping))).anonymousMib,
    heap: of(isHeap).anonymousMib,
    programs: programs.anonymousMib,
    'page-tables': await pageTablesMib(pid),
    jail: await jailMib(pid),
  };
  return {
    own: Object.values(own).reduce((sum, mib) => sum + mib, 0),
    ...own,
    'shared-programs': programs.proportionalMib - programs.anonymousMib,
    'shared-ram': ram.proportionalMib - ram.anonymousMib,
  };
}

const isRam = ({ path }: Mapping): boolean => isGuestRam(path);
const isFile = ({ path }: Mapping): boolean => path.startsWith('/');
const isHeap = ({ path }: Mapping): boolean => path === '[heap]';

/** 0 if no process of a jail waits for the VMM. */
async function jailMib(pid: number): Promise<number> {
  const parent = parentOf(pid);
  if (parent === undefined || parent <= 1 || parent === process.pid) return 0;
  const maps = await readFile(`/proc/${parent}/smaps`, 'latin1');
  return mappedMemory(maps, () => true).anonymousMib + (await pageTablesMib(parent));
}

async function pageTablesMib(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'latin1');
  return Number(/^VmPTE:\s+(\d+) kB$/m.exec(status)?.[1] ?? Number.NaN) / KIB_PER_MIB;
}
