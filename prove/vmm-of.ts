import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Runtime } from '../src/host/runtime/runtime.ts';

/** The pid of a sandbox's VMM, from the record for its next owner. */
export async function vmmOf(runtime: Runtime, sandboxId: string): Promise<number> {
  const record = await readFile(join(runtime.home.runDir, sandboxId, 'owner.json'), 'utf8');
  return (JSON.parse(record) as { vmm: { pid: number } }).vmm.pid;
}
