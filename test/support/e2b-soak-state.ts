/**
 * Resources of a daemon, seen from outside, so that no tested code is trusted: compared when it is idle, before and
 * after a load, they show what the load left behind.
 */
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { holdings } from './leftovers.ts';

export interface DaemonPlaces {
  readonly pid: number;
  readonly homeDir: string;
  readonly runDir: string;
  /** Directory of temporary files of this daemon alone. */
  readonly tmpDir: string;
  /** The output of `report-memory.mjs`. */
  readonly reportPath: string;
}

export interface MemoryReport {
  /** Bytes after garbage collection. */
  readonly heapUsed: number;
  readonly arrayBuffers: number;
  readonly rss: number;
  /** Kinds of resources that keep the event loop alive, with their number. */
  readonly resources: Readonly<Record<string, number>>;
}

/** Kind → its items. */
export type DaemonState = Readonly<Record<string, unknown>>;

/** Written for as long as the daemon runs, and bounded: rows of ended sandboxes, events, audit records. */
const WRITTEN = /\/(audit|events\.db.*|.*\.db-(wal|shm|journal))$/;
const REPORT_MS_MAX = 60_000;

export async function daemonState(places: DaemonPlaces): Promise<DaemonState> {
  const { pid, homeDir, runDir, tmpDir } = places;
  const { processes, fds, guestMappings, runDir: inRunDir } = await holdings(runDir, pid);
  return {
    processes,
    ...prefixed('open files: ', fds),
    'mappings of guest memory': guestMappings,
    'run directory': inRunDir,
    files: [...(await tree(homeDir, '')), ...(await tree(tmpDir, 'tmp'))].filter((path) => !WRITTEN.test(`/${path}`)),
    sockets: await socketsOf([homeDir, runDir, tmpDir]),
    cgroups: await cgroupsOf(pid),
    links: await linksOf(pid),
    mounts: (await readFile(`/proc/${pid}/mountinfo`, 'utf8')).split('\n').length,
  };
}

/** Collects garbage in the daemon first. */
export async function memoryOf({ pid, reportPath }: DaemonPlaces): Promise<MemoryReport> {
  await rm(reportPath, { force: true });
  process.kill(pid, 'SIGUSR2');
  for (const deadline = performance.now() + REPORT_MS_MAX; ; await sleep(50)) {
    const text = await readFile(reportPath, 'utf8').catch(() => undefined);
    if (text !== undefined) return JSON.parse(text) as MemoryReport;
    if (performance.now() > deadline) throw new Error('the daemon reports no memory');
  }
}

/** One line for each kind that differs. */
export function differences(before: DaemonState, after: DaemonState): string[] {
  return [...new Set([...Object.keys(before), ...Object.keys(after)])].flatMap((kind) => {
    const [was, is] = [before[kind], after[kind]];
    if (JSON.stringify(was) === JSON.stringify(is)) return [];
    if (!Array.isArray(was) || !Array.isArray(is)) return [`${kind}: ${was ?? 0}, then ${is ?? 0}`];
    const more = is.filter((one) => !was.includes(one)).map((one) => `+ ${one}`);
    const fewer = was.filter((one) => !is.includes(one)).map((one) => `- ${one}`);
    return [`${kind}: ${[...more, ...fewer].join(', ')}`];
  });
}

export function prefixed(prefix: string, counts: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(counts).map(([name, n]) => [`${prefix}${name}`, n]));
}

/** Names of all files and directories, without following links. */
async function tree(dir: string, name: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => []);
  const below = await Promise.all(
    entries.map(async (entry) => {
      const path = join(name, entry.name);
      const inside = entry.isDirectory() ? await tree(join(dir, entry.name), path) : [];
      return [path, ...inside];
    }),
  );
  return below.flat().sort();
}

export async function socketsOf(dirs: readonly string[]): Promise<string[]> {
  const lines = (await readFile('/proc/net/unix', 'utf8')).split('\n');
  const paths = lines.map((line) => line.split(' ').at(-1) ?? '');
  return paths.filter((path) => dirs.some((dir) => path.startsWith(`${dir}/`))).sort();
}

/** Their names have the owner's pid. */
export async function cgroupsOf(pid: number): Promise<string[]> {
  const find = async (dir: string): Promise<string[]> => {
    const entries = await readdir(dir, { withFileTypes: true }).catch(() => []);
    const below = await Promise.all(entries.filter((one) => one.isDirectory()).map((one) => find(join(dir, one.name))));
    return [...(dir.includes(`.${pid}.`) ? [dir] : []), ...below.flat()];
  };
  return (await find('/sys/fs/cgroup')).sort();
}

/** Their aliases have the owner's pid. */
export async function linksOf(pid: number): Promise<string[]> {
  const names = await readdir('/sys/class/net').catch(() => []);
  const aliases = await Promise.all(
    names.map((name) => readFile(`/sys/class/net/${name}/ifalias`, 'utf8').catch(() => '')),
  );
  return names.filter((_, index) => aliases[index]?.includes(`:${pid}.`)).sort();
}
