/** Small snapshots, and the contents of a store; without the test runner, so that child processes can use it. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { open, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { newSandboxId } from '../../src/base/ids.ts';
import type { SandboxRow } from '../../src/sandbox/store/sandbox-table.ts';
import type { NewSnapshot, SnapshotPaths } from '../../src/sandbox/store/snapshot.ts';
import type { Store } from '../../src/sandbox/store/store.ts';

/** The content of a snapshot's files, equal for equal seeds. */
const ramOf = (seed: number): Buffer => Buffer.alloc(4096, seed + 1);
const stateOf = (seed: number): Buffer => Buffer.from(`state ${seed}`);
const RAM_BYTES = 1024 * 1024;
const RAM_AT = 64 * 4096;
const DISK_BYTES = 4 * 1024 * 1024;

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export async function writeSnapshot(paths: Required<SnapshotPaths>, seed: number): Promise<void> {
  await writeFile(paths.state, stateOf(seed), { flag: 'wx' });
  await writeSparse(paths.ram, RAM_BYTES, ramOf(seed), RAM_AT);
  // Disks are equal more often than RAM.
  await writeSparse(paths.disk, DISK_BYTES, ramOf(seed % 2), 0);
}

export async function writeSparse(path: string, size: number, data: Uint8Array, at: number): Promise<void> {
  await using file = await open(path, 'wx');
  await file.truncate(size);
  await file.write(data, 0, data.length, at);
}

/** Whether the files of an open snapshot have the content from `writeSnapshot`. */
export async function holdsSeed(paths: SnapshotPaths, seed: number): Promise<boolean> {
  await using ram = await open(paths.ram ?? '', 'r');
  const found = Buffer.alloc(4096);
  await ram.read(found, 0, 4096, RAM_AT);
  return found.equals(ramOf(seed)) && (await ram.stat()).size === RAM_BYTES;
}

export const newSnapshot = (seed: number, change: Partial<NewSnapshot> = {}): NewSnapshot => ({
  id: newSandboxId(),
  name: null,
  kind: 'snapshot',
  sandboxId: newSandboxId(),
  specJson: '{"cpus":1}',
  machine: 'a machine',
  stateSha256: sha256(stateOf(seed)),
  kernelDigest: 'kernel',
  rootImageDigest: 'image',
  ...change,
});

/** Stages, writes, commits. @returns the id */
export async function takeSnapshot(store: Store, seed: number, change: Partial<NewSnapshot> = {}): Promise<string> {
  await using staging = await store.snapshots.stage();
  await staging.write((paths) => writeSnapshot(paths, seed));
  return (await staging.commit(newSnapshot(seed, change))).id;
}

export const newSandbox = (change: Partial<SandboxRow> = {}): SandboxRow => ({
  id: newSandboxId(),
  ownerJson: null,
  status: 'running',
  requestJson: '{}',
  metadata: {},
  createdAtMs: 1,
  endsAtMs: null,
  pausedSnapshotId: null,
  parent: null,
  snapshot: null,
  end: null,
  ...change,
});

/** Pauses a new sandbox to disk. */
export async function pauseSandbox(store: Store, seed: number, sandbox = newSandbox()): Promise<SandboxRow> {
  await using staging = await store.snapshots.stage();
  await staging.write((paths) => writeSnapshot(paths, seed));
  const snapshot = newSnapshot(seed, { kind: 'pause', sandboxId: sandbox.id });
  const paused: SandboxRow = { ...sandbox, status: 'paused', pausedSnapshotId: snapshot.id };
  await staging.commit(snapshot, paused);
  return paused;
}

/** Names under files, staging and trash. */
export async function onDisk(dir: string): Promise<{ files: string[]; staging: string[]; trash: string[] }> {
  const names = async (folder: string): Promise<string[]> =>
    existsSync(join(dir, folder)) ? (await readdir(join(dir, folder))).sort() : [];
  return { files: await names('files'), staging: await names('staging'), trash: await names('trash') };
}

/** The digests that rows name, sorted. */
export async function named(store: Store): Promise<string[]> {
  const rows = await store.snapshots.list();
  return [...new Set(rows.flatMap((row) => Object.values(row.files)))].sort();
}
