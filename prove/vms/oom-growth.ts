/** Proves that a program that would be OOM-killed survives if its sandbox may grow, and that each step is an event. */
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Log } from '../../src/base/log.ts';
import { openControlPlane } from '../../src/host/runtime/control.ts';
import type { Runtime } from '../../src/host/runtime/runtime.ts';
import type { Notes } from '../proof.ts';

const SIZE = { memoryMib: 192, diskMib: 64, boot: true } as const;
const MAX_MIB = 512;
/** More than the initial memory, MiB. */
const NEEDED_MIB = 300;
/**
 * Waits while the kernel throttles it: on a busy host a growth step may take as long as the kernel takes to kill. What
 * counts as slow depends on the host: on an emulated one each MiB may take 0.1 s.
 */
const NEEDY = `
import time
kept = []
least = 1
for n in range(${NEEDED_MIB}):
    began = time.monotonic()
    kept.append(bytearray(1 << 20))
    took = time.monotonic() - began
    least = min(least, took)
    if took > max(0.1, 10 * least): time.sleep(2)
`;

export async function proveGrowth(runtime: Runtime, log: Log, notes: Notes): Promise<void> {
  const dataDir = await mkdtemp(join(runtime.home.runDir, 'prove-'));
  try {
    await using opened = await openControlPlane(runtime, log, { dataDir });
    const { control } = opened;
    const run = async (memoryMaxMib: number | undefined): Promise<string> => {
      const { id } = await control.create({ ...SIZE, memoryMaxMib });
      const guest = await control.guest(id);
      const program = await guest.python({ script: { code: NEEDY }, stdin: false });
      program.stdout.resume();
      program.stderr.resume();
      const { exitCode, oomKilled } = await program.exit;
      const steps: number[] = [];
      for await (const event of control.events(id, { follow: false })) {
        if (event.type === 'resized') steps.push(event.toMib);
      }
      await control.remove(id);
      const grew = steps.length === 0 ? 'not grown' : 'grown, with events';
      return `${oomKilled ? 'killed' : `status ${exitCode}`}, ${grew}`;
    };
    const what = `a program of ${NEEDED_MIB} MiB in ${SIZE.memoryMib}`;
    notes.same(`control: ${what}`, 'killed, not grown', await run(undefined));
    const expected = 'status 0, grown, with events';
    notes.same(`${what}, at most ${MAX_MIB}`, expected, await run(MAX_MIB));
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
}
