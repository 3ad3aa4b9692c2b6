/** The memory of processes and guests, by the kernel's accounting (proc(5)). */
import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { sleep } from '../../src/base/clock.ts';
import { errorCode } from '../../src/base/errors.ts';
import { ignore } from '../../src/base/ignore.ts';
import { MIB, STAT_BLOCK_BYTES } from '../../src/base/units.ts';
import { hostAvailableMib, mappedMemory, OWN_RAM } from '../../src/host/probes/host-memory.ts';

const LOOK_EVERY_MS = 250;
const SETTLED_MIB = 1;
const LOOKS_MAX = 40;

/** The available memory, once stable: the kernel frees memory of ended processes gradually. */
export async function settledAvailableMib(signal: AbortSignal): Promise<number> {
  let before = Number.NaN;
  for (let look = 0; look < LOOKS_MAX; look += 1) {
    await sleep(LOOK_EVERY_MS, signal);
    const now = hostAvailableMib();
    if (Math.abs(now - before) < SETTLED_MIB) return now;
    before = now;
  }
  return before;
}

/**
 * The memory of one VMM, MiB: its share of its mappings, including shared RAM, and every allocated page of RAM that
 * only its guest has, since unmapped pages take memory too.
 */
export async function vmmMemoryMib(pid: number): Promise<number> {
  const maps = await readFile(`/proc/${pid}/smaps`, 'latin1');
  const own = mappedMemory(maps, ({ path }) => !path.startsWith(OWN_RAM));
  return own.proportionalMib + (await guestRamMib(pid));
}

async function guestRamMib(pid: number): Promise<number> {
  const blocks = new Map<bigint, bigint>();
  for (const fd of await readdir(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${fd}`;
    try {
      if (!(await readlink(path)).startsWith(OWN_RAM)) continue;
      const file = await stat(path, { bigint: true });
      blocks.set(file.ino, file.blocks);
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') throw error;
      ignore(error, 'the file was closed meanwhile');
    }
  }
  const all = [...blocks.values()].reduce((sum, count) => sum + Number(count), 0);
  return (all * STAT_BLOCK_BYTES) / MIB;
}
