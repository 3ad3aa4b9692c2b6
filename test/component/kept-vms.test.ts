/** Records of VMs that outlive their process: who may take them over, who leaves them alone, who ends them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newSandboxId } from '../../src/base/ids.ts';
import { silentLog } from '../../src/base/log.ts';
import { isOwnerAlive, KeptVms, keeperOf, ownerJsonOf, readKept, writeKept } from '../../src/host/runtime/kept-vms.ts';
import {
  adoptWorkspace,
  makeWorkspace,
  type ProcessRef,
  processRef,
  reclaim,
} from '../../src/host/runtime/workspace.ts';

const MADE_FROM = { kernelDigest: 'k', rootImageDigest: 'r' };
let runDir: string;
let processes: ChildProcess[];
beforeEach(async () => {
  runDir = await mkdtemp(join(tmpdir(), 'nv-kept-'));
  processes = [];
});
afterEach(async () => {
  for (const one of processes) one.kill('SIGKILL');
  await rm(runDir, { recursive: true, force: true });
});

function sleeper(): { readonly pid: number; end(): Promise<void>; readonly ended: Promise<unknown> } {
  const child = spawn('sleep', ['100']);
  processes.push(child);
  const ended = once(child, 'exit');
  return {
    pid: child.pid ?? 0,
    ended,
    end: async () => {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** A directory of a VM whose owner is dead. */
async function keptVm(keeper: ProcessRef, vmmPid: number): Promise<string> {
  const id = newSandboxId();
  const dead = { pid: 999_999_999, startTicks: '1', bootId: 'b' };
  const { dir } = await makeWorkspace(runDir, id);
  const { pid, startTicks } = await processRef(vmmPid);
  await writeFile(join(dir, 'owner.json'), JSON.stringify({ owner: dead, vmm: null }));
  const vmm = { vmm: { pid, startTicks }, held: [], groups: [], machine: 'm', configuration: null };
  writeKept(dir, vmm, keeper, MADE_FROM);
  return id;
}

describe('VMs that outlive their process', () => {
  it('while its keeper lives, another process leaves a VM alone', async () => {
    const [keeper, vmm] = [sleeper(), sleeper()];
    const id = await keptVm(await processRef(keeper.pid), vmm.pid);
    const kept = await readKept(runDir);
    expect([...kept.keys()]).toEqual([id]);
    expect(kept.get(id)).toMatchObject({ madeFrom: MADE_FROM, machine: 'm' });
    expect(await reclaim(runDir, silentLog, kept)).toBe(0);
    expect(await readdir(runDir)).toEqual([id]);
  });

  it('once its keeper has ended, it is what a killed process left', async () => {
    const [keeper, vmm] = [sleeper(), sleeper()];
    const id = await keptVm(await processRef(keeper.pid), vmm.pid);
    await keeper.end();
    const kept = await readKept(runDir);
    expect(kept.size).toBe(0);
    expect(await reclaim(runDir, silentLog, kept)).toBe(1);
    expect(await readdir(runDir)).not.toContain(id);
  });

  it.each([
    ['is damaged', (text: string) => text.slice(0, -2)],
    ['is of another version', (text: string) => text.replace('"version":1', '"version":2')],
    ['names another start of the pid', (text: string) => text.replace(/("vmm":.*?"startTicks":")\d+/, '$11')],
  ])('a record that %s counts as none', async (_what, change) => {
    const [keeper, vmm] = [sleeper(), sleeper()];
    const id = await keptVm(await processRef(keeper.pid), vmm.pid);
    const path = join(runDir, id, 'vm.json');
    await writeFile(path, change(await readFile(path, 'utf8')));
    expect((await readKept(runDir)).size).toBe(0);
  });

  it('a VM that is not taken over ends with its directory, as one of another keeper does not', async () => {
    const [own, other] = [await processRef(process.pid), await processRef(process.ppid)];
    const [vmm, theirs] = [sleeper(), sleeper()];
    const id = await keptVm(own, vmm.pid);
    const id2 = await keptVm(other, theirs.pid);
    const kept = await KeptVms.open(own, runDir, await readKept(runDir), silentLog);
    expect(kept.ids).toEqual([id]);
    await kept.close();
    await vmm.ended;
    expect(await readdir(runDir)).toEqual([id2]);
    expect(() => process.kill(theirs.pid, 0)).not.toThrow();
  });

  it('adoptWorkspace: names the new owner, and drops the sockets of the old one', async () => {
    const vmm = sleeper();
    const id = await keptVm(await processRef(process.ppid), vmm.pid);
    await mkdir(join(runDir, id, 'not-a-socket'));
    await adoptWorkspace(runDir, id);
    const { owner } = JSON.parse(await readFile(join(runDir, id, 'owner.json'), 'utf8'));
    expect(owner).toEqual(await processRef(process.pid));
    expect((await readdir(join(runDir, id))).sort()).toEqual(['not-a-socket', 'owner.json', 'vm.json']);
  });
});

describe('isOwnerAlive', () => {
  it('a killed owner counts as alive while its keeper lives, but not for the next process of that keeper', async () => {
    const [dead, launcher] = [sleeper(), sleeper()];
    const [owner, keeper] = [await processRef(dead.pid), await processRef(launcher.pid)];
    const json = ownerJsonOf(owner, keeper);
    expect(await isOwnerAlive(json, keeper)).toBe(true);
    await dead.end();
    expect(await isOwnerAlive(json, undefined)).toBe(true);
    expect(await isOwnerAlive(json, await processRef(process.pid))).toBe(true);
    expect(await isOwnerAlive(json, keeper)).toBe(false);
    await launcher.end();
    expect(await isOwnerAlive(json, undefined)).toBe(false);
  });
});

it('keeperOf: believes only its own parent', async () => {
  expect(await keeperOf({ NEUROVISOR_LAUNCHER: `${process.ppid}` })).toEqual(await processRef(process.ppid));
  for (const value of ['1000000', 'off', '', undefined])
    expect(await keeperOf({ NEUROVISOR_LAUNCHER: value })).toBe(null);
});
