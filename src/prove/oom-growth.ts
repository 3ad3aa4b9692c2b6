/** A program that would be killed for want of memory lives where its sandbox can be given more, told step by step. */
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Log } from '../base/log.ts';
import { openControlPlane } from '../runtime/control.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Notes } from './proof.ts';

const SIZE = { memoryMib: 192, diskMib: 64, boot: true } as const;
const MAX_MIB = 512;
/** MiB: more than there is at first. */
const NEEDED_MIB = 300;
/** Waits where its kernel slows it down, for on a busy host a step may take as long as the kernel takes to a kill. */
const NEEDY = `
import time
kept = []
for n in range(${NEEDED_MIB}):
    began = time.monotonic()
    kept.append(bytearray(1 << 20))
    if time.monotonic() - began > 0.1: time.sleep(2)
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
      const grew = steps.length === 0 ? 'not given more' : 'given more, and told';
      return `${oomKilled ? 'killed' : `status ${exitCode}`}, ${grew}`;
    };
    const what = `a program of ${NEEDED_MIB} MiB in ${SIZE.memoryMib}`;
    notes.same(`control: ${what}`, 'killed, not given more', await run(undefined));
    const expected = 'status 0, given more, and told';
    notes.same(`${what}, at most ${MAX_MIB}`, expected, await run(MAX_MIB));
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
}
