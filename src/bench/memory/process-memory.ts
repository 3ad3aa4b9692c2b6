/** What processes and guests cost in memory, as the kernel counts it (proc(5)). */
import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { sleep } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import { MIB } from '../../base/units.ts';
import { availableMib } from '../../probes/host-memory.ts';

const KIB_PER_MIB = 1024;
/** Of `st_blocks` (stat(2)). */
const BLOCK_BYTES = 512;
/** Name of the memfds that are RAM of guests. */
const GUEST_RAM = '/memfd:guest-ram';

const LOOK_EVERY_MS = 250;
const SETTLED_MIB = 1;
const LOOKS_MAX = 40;

/** The same once it stays: memory of processes that have ended is given back bit by bit. */
export async function settledAvailableMib(signal: AbortSignal): Promise<number> {
  let before = Number.NaN;
  for (let look = 0; look < LOOKS_MAX; look += 1) {
    await sleep(LOOK_EVERY_MS, signal);
    const now = availableMib();
    if (Math.abs(now - before) < SETTLED_MIB) return now;
    before = now;
  }
  return before;
}

/**
 * What one VMM takes, MiB: its share of what it maps, and of the RAM of its guest every page that there
 * is, for a page that nobody maps is memory as well.
 */
export async function vmmMemoryMib(pid: number): Promise<number> {
  const maps = await readFile(`/proc/${pid}/smaps`, 'latin1');
  return pssMibWithout(maps, GUEST_RAM) + (await guestRamMib(pid));
}

/** Proportional set size of all mappings but those of files whose name begins with `path`, MiB. */
export function pssMibWithout(smaps: string, path: string): number {
  let kib = 0;
  let isLeftOut = false;
  for (const line of smaps.split('\n')) {
    const head = /^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$/.exec(line);
    if (head !== null) isLeftOut = head[1]?.startsWith(path) === true;
    const pss = /^Pss: +(\d+) kB$/.exec(line);
    if (pss !== null && !isLeftOut) kib += Number(pss[1]);
  }
  return kib / KIB_PER_MIB;
}

async function guestRamMib(pid: number): Promise<number> {
  const blocks = new Map<bigint, bigint>();
  for (const fd of await readdir(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${fd}`;
    try {
      if (!(await readlink(path)).startsWith(GUEST_RAM)) continue;
      const file = await stat(path, { bigint: true });
      blocks.set(file.ino, file.blocks);
    } catch (error) {
      if (errorCode(error) !== 'ENOENT') throw error;
      ignore(error, 'a file that was closed meanwhile');
    }
  }
  const all = [...blocks.values()].reduce((sum, count) => sum + Number(count), 0);
  return (all * BLOCK_BYTES) / MIB;
}
