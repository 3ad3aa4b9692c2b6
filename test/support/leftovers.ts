/**
 * Resources of a process and its home: compared before and after, they show what a sandbox left behind. Everything is
 * read from /proc and the file system, so no tested code is trusted.
 */
import { readdir, readFile, readlink } from 'node:fs/promises';

export interface Holdings {
  /** Direct and indirect children, as `pid command`. */
  readonly processes: readonly string[];
  /** Kinds of open files, for example `socket`, with their number. */
  readonly fds: Readonly<Record<string, number>>;
  readonly guestMappings: number;
  /** Entries of the run directory. */
  readonly runDir: readonly string[];
}

export async function holdings(runDir: string, pid = process.pid): Promise<Holdings> {
  return {
    processes: await descendants(pid),
    fds: await openFiles(pid),
    guestMappings: await guestMappings(pid),
    runDir: await listOrEmpty(runDir),
  };
}

/** Children and their children, as `pid command`. */
export async function descendants(root: number): Promise<string[]> {
  const parents = new Map<number, { parent: number; command: string }>();
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const stat = await readFile(`/proc/${name}/stat`, 'latin1').catch(() => '');
    const match = /^(\d+) \((.*)\) (\S) (\d+)/s.exec(stat);
    if (match === null || match[3] === 'Z') continue;
    parents.set(Number(match[1]), { parent: Number(match[4]), command: match[2] ?? '' });
  }
  const isBelow = (pid: number): boolean => {
    const parent = parents.get(pid)?.parent ?? 0;
    return parent === root || (parent > 1 && isBelow(parent));
  };
  return [...parents]
    .filter(([pid]) => isBelow(pid))
    .map(([pid, { command }]) => `${pid} ${command}`)
    .sort();
}

async function openFiles(pid: number): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const fd of await readdir(`/proc/${pid}/fd`)) {
    const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '');
    const kind = /^(socket|pipe|anon_inode|\/memfd)/.exec(target)?.[1] ?? 'file';
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return counts;
}

async function guestMappings(pid: number): Promise<number> {
  const maps = await readFile(`/proc/${pid}/maps`, 'utf8');
  return maps.split('\n').filter((line) => line.includes('memfd:')).length;
}

async function listOrEmpty(dir: string): Promise<string[]> {
  return (await readdir(dir).catch(() => [])).sort();
}
