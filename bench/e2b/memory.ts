/**
 * Memory of the daemon for each idle sandbox, with E2B's server open: only this process, without guests' RAM and VMMs.
 */
import { readFile } from 'node:fs/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { sleep } from '../../src/base/clock.ts';
import { MIB } from '../../src/base/units.ts';
import { isGuestRam, mappedMemory } from '../../src/host/probes/host-memory.ts';
import type { ControlPlane } from '../../src/sandbox/contract/control.ts';
import type { BenchContext, Benchmark } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
import { openBenchControl } from '../control.ts';
import { type E2bSandbox, openE2bClient } from './client.ts';

const TEMPLATE = 'agent';
/** Concurrent sandboxes; the figure is the growth divided by this. */
const SANDBOXES = 16;
const SETTLE_MS = 2000;

type Memory = {
  /** Objects and buffers after garbage collection. */
  readonly heapMib: number;
  /** Private pages of the process, without guests' RAM. */
  readonly privateMib: number;
};

export const e2bMemoryBenchmark: Benchmark = {
  names: ['e2b.memory.heap', 'e2b.memory.private'],
  summary: `memory of the daemon per idle sandbox (of ${SANDBOXES}) that E2B's client has created and used once`,
  async measure(context) {
    const { signal, runtime } = context;
    await using opened = await openBenchControl(context);
    const { control } = opened;
    await using client = await openE2bClient(control, context);
    const throughE2b = async (): Promise<E2bSandbox> => {
      const sandbox = await client.create(TEMPLATE);
      await client.run(sandbox, 'true');
      return sandbox;
    };
    const alone = async (): Promise<{ id: string }> => {
      const { id } = await control.create({ template: TEMPLATE }, signal);
      const guest = await control.guest(id);
      const process = await guest.exec({ argv: ['/bin/true'], stdin: false }, signal);
      process.stdout.resume();
      process.stderr.resume();
      await process.exit;
      return { id };
    };
    // The first round loads and compiles the code.
    const { own, base } = await compare(context, 'memory of the daemon,', {
      own: () => growth(context, control, throughE2b),
      base: () => growth(context, control, alone),
    });
    const make = rowsOf('MiB', runtime.driver.accelerator);
    const row = (name: string, figure: keyof Memory, note: string) =>
      make(`e2b.memory.${name}`, own(figure), ['the control plane without HTTP', base(figure)], { note });
    return [
      row('heap', 'heapMib', 'JavaScript heap and buffers after garbage collection'),
      row('private', 'privateMib', "all private pages, without guests' RAM; allocators keep gaps"),
    ];
  },
};

/** Growth per sandbox. */
async function growth(
  { signal }: BenchContext,
  control: ControlPlane,
  create: () => Promise<{ readonly id: string }>,
): Promise<Memory> {
  const ids: string[] = [];
  try {
    const before = await memoryNow(signal);
    for (let n = 0; n < SANDBOXES; n += 1) ids.push((await create()).id);
    const after = await memoryNow(signal);
    return {
      heapMib: (after.heapMib - before.heapMib) / SANDBOXES,
      privateMib: (after.privateMib - before.privateMib) / SANDBOXES,
    };
  } finally {
    await Promise.all(ids.map((id) => control.remove(id)));
  }
}

async function memoryNow(signal: AbortSignal): Promise<Memory> {
  await sleep(SETTLE_MS, signal);
  setFlagsFromString('--expose-gc');
  runInNewContext('gc()');
  const { heapUsed, external } = process.memoryUsage();
  const smaps = await readFile('/proc/self/smaps', 'latin1');
  const { privateMib } = mappedMemory(smaps, ({ path }) => !isGuestRam(path));
  return { heapMib: (heapUsed + external) / MIB, privateMib };
}
