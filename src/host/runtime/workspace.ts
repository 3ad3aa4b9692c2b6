/**
 * The directory of a running sandbox, and the cleanup of directories whose owner was killed.
 *
 *     run/<id>/owner.json     the owner process and the VMM, each by pid and start time
 *     run/<id>/v              the channel's socket; `v_<port>` for guest → host
 *     run/<id>/disk.ext4      the guest's writes
 *     run/<id>/environment    a hard link to the image that its programs run in, if any
 */
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describeError, errorCode } from '../../base/errors.ts';
import { checkRunDir, requireRunDir } from '../../base/home.ts';
import { parseSandboxId } from '../../base/ids.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { namesIn } from '../../base/names-in.ts';
import { PORTS } from '../../machine/guest/limits.ts';
import { endUnfinishedStarts } from '../../machine/jail/leftovers.ts';
import type { KeptVm } from '../../machine/vmm/kept.ts';
import type { Workspace } from '../../sandbox/contract/parts.ts';
import { startTicksOf } from '../../sys/process-start.ts';

/** A process, distinguished from later ones with the same pid. */
export interface ProcessRef {
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat: start time in clock ticks since boot (proc(5)). */
  readonly startTicks: string;
  readonly bootId: string;
}

const OWNER_FILE = 'owner.json';

interface Owner {
  readonly owner: ProcessRef;
  readonly vmm: ProcessRef | null;
}

/** @throws HomeError `run_dir_unsafe` */
export async function makeWorkspace(runDir: string, id: string, keep?: KeepIn): Promise<Workspace> {
  const dir = join(runDir, id);
  requireRunDir(runDir);
  await mkdir(dir, { mode: 0o700 });
  const owner = await processRef(process.pid);
  try {
    await writeOwner(dir, { owner, vmm: null });
  } catch (error) {
    // On a full disk; the next try of the sandbox has the same id.
    await rm(dir, { recursive: true, force: true });
    throw error;
  }
  return workspaceAt(dir, owner, keep);
}

/** Records a VM in its directory. */
type KeepIn = (dir: string, kept: KeptVm) => void;

/** The directory of a VM that this process takes over. */
export async function adoptWorkspace(runDir: string, id: string): Promise<Workspace> {
  const dir = join(runDir, id);
  const owner = await processRef(process.pid);
  await writeOwner(dir, { owner, vmm: null });
  // Sockets of the process before.
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    if (entry.isSocket()) await rm(join(dir, entry.name), { force: true });
  }
  return workspaceAt(dir, owner);
}

function workspaceAt(dir: string, owner: ProcessRef, keep?: KeepIn): Workspace {
  return {
    dir,
    ...(keep === undefined ? {} : { keep: (kept: KeptVm) => keep(dir, kept) }),
    channelPath: join(dir, 'v'),
    overlayPath: join(dir, 'disk.ext4'),
    environmentPath: join(dir, 'environment'),
    recordVmm: async (pid) => writeOwner(dir, { owner, vmm: await processRef(pid) }),
    remove: () => removeWorkspace(dir),
  };
}

/** Its owner's record goes last: should the owner be killed meanwhile, the next process removes the rest. */
export async function removeWorkspace(dir: string): Promise<void> {
  const names = (await namesIn(dir)).filter((name) => name !== OWNER_FILE);
  await Promise.all(names.map((name) => rm(join(dir, name), { recursive: true, force: true })));
  await rm(dir, { recursive: true, force: true });
}

export const inferenceSocket = (channelPath: string): string => `${channelPath}_${PORTS.inference}`;
export const packageSocket = (channelPath: string): string => `${channelPath}_${PORTS.packages}`;

/**
 * Kills the VMMs and removes the directories of sandboxes whose owner is gone. Returns the number of directories.
 * @param kept ids of VMs that outlive their owner (`kept-vms.ts`)
 * @throws HomeError `run_dir_unsafe`
 */
export async function reclaim(
  runDir: string,
  log: Log,
  kept: Pick<ReadonlyMap<string, unknown>, 'has'> = new Map(),
): Promise<number> {
  checkRunDir(runDir);
  let reclaimed = 0;
  const abandoned = new Set<string>();
  for (const name of await namesIn(runDir)) {
    if (parseSandboxId(name) === undefined || kept.has(name)) continue;
    const dir = join(runDir, name);
    const state = await readOwner(dir);
    if (state === 'young' || (state !== undefined && (await isAlive(state.owner)))) continue;
    abandoned.add(name);
    try {
      if (state?.vmm && (await isAlive(state.vmm))) process.kill(state.vmm.pid, 'SIGKILL');
      await removeWorkspace(dir);
      reclaimed += 1;
      log.info('reclaimed a sandbox whose owner was killed', { sandbox: name });
    } catch (error) {
      log.warn('could not reclaim a sandbox', { sandbox: name, error: describeError(error) });
    }
  }
  const ended = endUnfinishedStarts(abandoned);
  if (ended > 0) log.info('ended starts whose owner was killed', { count: ended });
  return reclaimed;
}

async function writeOwner(dir: string, owner: Owner): Promise<void> {
  const path = join(dir, OWNER_FILE);
  await writeFile(`${path}.new`, JSON.stringify(owner));
  await rename(`${path}.new`, path);
}

/** `young`: another process has just made this directory and has not written its owner yet. */
async function readOwner(dir: string): Promise<Owner | 'young' | undefined> {
  try {
    return JSON.parse(await readFile(join(dir, OWNER_FILE), 'utf8')) as Owner;
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') ignore(error, 'unreadable owner file');
    const made = await stat(dir).catch(() => undefined);
    return made === undefined || Date.now() - made.ctimeMs < YOUNG_MS ? 'young' : undefined;
  }
}

const YOUNG_MS = 5_000;

let bootId: string | undefined;

export async function processRef(pid: number): Promise<ProcessRef> {
  bootId ??= (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  return { pid, startTicks: startTicksOf(pid) ?? '', bootId };
}

export async function isAlive(ref: ProcessRef): Promise<boolean> {
  const now = await processRef(ref.pid);
  return now.startTicks !== '' && now.startTicks === ref.startTicks && now.bootId === ref.bootId;
}
