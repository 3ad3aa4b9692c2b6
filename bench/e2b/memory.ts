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
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { openBenchControl } from '../control.ts';
import { type E2bSandbox, openE2bClient } from './client.ts';

const TEMPLATE = 'agent';
/** Concurrent sandboxes; the figure is the growth divided by this. */
const SANDBOXES = 16;
const SETTLE_MS = 2000;

interface Memory {
  /** Objects and buffers after garbage collection. */
  readonly heapMib: number;
  /** Private pages of the process, without guests' RAM. */
  readonly privateMib: number;
}

export const e2bMemoryBenchmark: Benchmark = {
  names: ['e2b.memory.heap', 'e2b.memory.private'],
  summary: `memory of the daemon per idle sandbox (of ${SANDBOXES}) that E2B's client has created and used once`,
  async measure(context) {
    const { rounds, signal, say, runtime } = context;
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
    const own: Memory[] = [];
    const base: Memory[] = [];
    // The first round loads and compiles the code; it is not counted.
    for (let round = 0; round <= rounds; round += 1) {
      say(`memory of the daemon, ${round} of ${rounds}`);
      const both = [
        [throughE2b, own],
        [alone, base],
      ] as const;
      for (const [create, into] of both) {
        const grown = await growth(context, control, create);
        if (round > 0) into.push(grown);
      }
    }
    const row = (name: string, of: (memory: Memory) => number, note: string): Measurement => ({
      name: `e2b.memory.${name}`,
      unit: 'MiB',
      accelerator: runtime.driver.accelerator,
      samples: own.map(of),
      baseline: { name: 'the control plane without HTTP', samples: base.map(of) },
      note,
    });
    return [
      row('heap', ({ heapMib }) => heapMib, 'JavaScript heap and buffers after garbage collection'),
      row('private', ({ privateMib }) => privateMib, "all private pages, without guests' RAM; allocators keep gaps"),
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
