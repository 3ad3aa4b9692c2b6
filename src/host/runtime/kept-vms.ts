/**
 * VMs that outlive a daemon. They belong to its *keeper*, the launcher, which starts the daemon again:
 *
 *     keeper lives    the next daemon of this keeper and home takes its VMs over, or ends them; others leave them alone
 *     keeper is dead  any NeuroVisor that starts ends them, as what every killed process left
 *
 * `vm.json` in a VM's directory is written before its guest runs. A VM without it has lost its owner amid its start;
 * the control groups, which name the keeper, find it.
 */
import { randomUUID } from 'node:crypto';
import { closeSync, openSync, renameSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { parseSandboxId } from '../../base/ids.ts';
import { awaitOr, tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { namesIn } from '../../base/names-in.ts';
import { holdGroups, removeGroups } from '../../machine/jail/cgroup.ts';
import { openCgroups } from '../../machine/jail/open.ts';
import type { KeptVm } from '../../machine/vmm/kept.ts';
import type { GuestMemory, MadeFrom, MappedMemory, SandboxParts } from '../../sandbox/contract/parts.ts';
import { isRunning, killIfRunning } from '../../sys/process-start.ts';
import { isAlive, type ProcessRef, processRef, removeWorkspace } from './workspace.ts';

const VERSION = 1;
const NUMBER = z.string().regex(/^\d{1,20}$/);
const PROCESS = { pid: z.number().int().positive(), startTicks: NUMBER };

const RECORD = z.object({
  version: z.literal(VERSION),
  keeper: z.object({ ...PROCESS, bootId: z.string() }),
  vmm: z.object(PROCESS),
  held: z.array(z.object({ fd: z.number().int().nonnegative(), dev: NUMBER, ino: NUMBER })),
  groups: z.array(z.string().startsWith('/')),
  machine: z.string(),
  configuration: z.string().nullable(),
  madeFrom: z.object({ kernelDigest: z.string(), rootImageDigest: z.string() }),
});

export type KeptRecord = KeptVm & { readonly keeper: ProcessRef; readonly madeFrom: MadeFrom };

const pathIn = (dir: string): string => join(dir, 'vm.json');

/** Writes the record of a VM whole, or not at all. @throws an errno error */
export function writeKept(dir: string, kept: KeptVm, keeper: ProcessRef, madeFrom: MadeFrom): void {
  const path = pathIn(dir);
  const fd = openSync(`${path}.new`, 'w', 0o600);
  try {
    writeSync(fd, JSON.stringify({ version: VERSION, keeper, madeFrom, ...kept }));
  } finally {
    closeSync(fd);
  }
  renameSync(`${path}.new`, path);
}

/** The process that starts this one again if it is killed, and for which its VMs are kept; null: none says so. */
export async function keeperOf(env: NodeJS.ProcessEnv): Promise<ProcessRef | null> {
  // Only a parent can say so: programs that its child starts inherit the variable, too.
  return env['NEUROVISOR_LAUNCHER'] === `${process.ppid}` ? await processRef(process.ppid) : null;
}

/** Identifies a control plane to other processes. */
export function ownerJsonOf(own: ProcessRef, keeper: ProcessRef | undefined): string {
  return JSON.stringify({ ...own, instance: randomUUID(), ...(keeper && { keeper }) });
}

/**
 * Whether the sandboxes of that control plane belong to another process: while its keeper lives, they wait for the next
 * one of that keeper.
 * @param own the keeper of this process
 */
export async function isOwnerAlive(json: string, own: ProcessRef | undefined): Promise<boolean> {
  const { keeper, ...owner } = JSON.parse(json) as ProcessRef & { readonly keeper?: ProcessRef };
  if (await isAlive(owner)) return true;
  return keeper !== undefined && keeper.pid !== own?.pid && (await isAlive(keeper));
}

/** The running VMs of living keepers below `runDir`, by id. */
export async function readKept(runDir: string): Promise<Map<string, KeptRecord>> {
  const found = new Map<string, KeptRecord>();
  for (const name of await namesIn(runDir)) {
    if (parseSandboxId(name) === undefined) continue;
    const text = await awaitOr(null, 'no VM that is kept', () => readFile(pathIn(join(runDir, name)), 'utf8'));
    const record = text === null ? null : parseRecord(text);
    if (record !== null && isRunning(record.vmm) && (await isAlive(record.keeper))) found.set(name, record);
  }
  return found;
}

function parseRecord(text: string): KeptRecord | null {
  return tryOr(null, 'a record of another version, or damaged', () => RECORD.parse(JSON.parse(text)));
}

/**
 * Disk and RAM of a VM that is taken over: all is there.
 * @param memory its RAM, or the file that it maps as its RAM
 */
export function keptDisk(
  { configuration }: KeptRecord,
  memory: GuestMemory,
  map: (path: string, sharers: string) => Promise<MappedMemory>,
): Pick<SandboxParts, 'template'> | Pick<SandboxParts, 'disk' | 'makeMemory'> {
  const disk = { copyDisk: async () => undefined, linkEnvironment: async () => undefined };
  if (configuration === null) return { disk, makeMemory: () => memory };
  const mapMemory = (sharers: string): Promise<MappedMemory> => map(memory.path, sharers).finally(() => memory.close());
  const copyMemory = async (): Promise<void> => {
    memory.close();
    throw new Error('this host maps no RAM any more');
  };
  // Only its RAM is read: the VM runs.
  const snapshot = { statePath: '', stateSha256: '', machine: '' };
  return { template: { ...disk, snapshot, copyMemory, mapMemory } };
}

/** The VMs that this process may take over. */
export class KeptVms {
  readonly keeper: ProcessRef;
  readonly #runDir: string;
  readonly #records: Map<string, KeptRecord>;

  private constructor(keeper: ProcessRef, runDir: string, records: Map<string, KeptRecord>) {
    this.keeper = keeper;
    this.#runDir = runDir;
    this.#records = records;
  }

  /** Ends what this keeper's daemons before left otherwise: starts that were under way. Call it before any start. */
  static async open(
    keeper: ProcessRef,
    runDir: string,
    all: ReadonlyMap<string, KeptRecord>,
    log: Log,
  ): Promise<KeptVms> {
    const own = [...all].filter(([, record]) => record.keeper.pid === keeper.pid);
    const records = new Map(own);
    for (const { groups } of records.values()) holdGroups(groups);
    await openCgroups(log, keeper, new Set(records.keys()));
    return new KeptVms(keeper, runDir, records);
  }

  get ids(): readonly string[] {
    return [...this.#records.keys()];
  }

  of(id: string): KeptRecord | undefined {
    return this.#records.get(id);
  }

  /** From now on the VM is one of this process, or has ended. */
  forget(id: string): void {
    this.#records.delete(id);
  }

  /** For the end of the process: what was not taken over. */
  async close(): Promise<void> {
    await Promise.all(this.ids.map((id) => this.end(id)));
  }

  /** Kills what was not taken over, at once. */
  readonly kill = (): void => {
    for (const { vmm } of this.#records.values()) killIfRunning(vmm);
  };

  /** Ends a VM that is not taken over, and removes its directory. Idempotent. */
  async end(id: string): Promise<void> {
    const record = this.#records.get(id);
    if (record === undefined) return;
    this.#records.delete(id);
    killIfRunning(record.vmm);
    await removeGroups(record.groups);
    await removeWorkspace(join(this.#runDir, id));
  }
}
