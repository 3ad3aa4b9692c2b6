/** The contract of drivers whose clones map the RAM of their snapshot. */
import { createHash } from 'node:crypto';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCloneRam } from '../../src/host/runtime/ram/clone-ram.ts';
import { applyDifference } from '../../src/machine/vmm/difference-file.ts';
import type { RamDifference, SavedState, Vm, VmSnapshot, VmSpec } from '../../src/machine/vmm/driver.ts';
import { dataExtents } from '../../src/sys/file.ts';
import { ask, expectReleased, held, type VmBench } from './driver-parity.ts';

const PATIENT = { timeout: 60_000 };

export function mappedCases(bench: () => VmBench): void {
  describe('mapped RAM', () => {
    it('start: clones share the file, and never change it; one that is saved is whole', async () => {
      expect(bench().driver.capabilities.mapsMemory).toBe(true);
      const { spec, snapshot } = await bench().saved();
      const shared = openCloneRam(bench().driver, join(spec.dir, 'run'));
      const { open, drop } = await shared.copy({ path: `/proc/self/fd/${spec.memoryFd}` });
      await using opened = new AsyncDisposableStack();
      const { path: memoryPath, ready, copyInto, close } = await open('us');
      opened.defer(close);
      await ready;
      const digest = (): string => digestOf(memoryPath);
      const before = digest();
      const mapped = { spec, snapshot: { ...snapshot, memoryPath } };
      /** A memory of its own, empty. */
      const clone = async (): Promise<{ vm: Vm; memoryFd: number }> => {
        const plain = bench().spec();
        const memoryFd = bench().memory(plain);
        const vm = await bench().clone(mapped, { ...plain, memoryFd });
        await expectHere(vm);
        return { vm, memoryFd };
      };
      const [one, two] = [await clone(), await clone()];
      for (const { vm } of [one, two]) {
        const ram = mappingOf(vm, memoryPath);
        expect(ram.rights).toBe('rw-p');
        // The pages that it has written to; it shares the rest.
        expect(ram.privateKib).toBeLessThan(ram.residentKib);
      }
      expect(dataExtents(one.memoryFd)).toEqual([]);
      expect(digest()).toBe(before);
      // A save writes the changes into a copy of that RAM, more than once.
      await copyInto(`/proc/self/fd/${one.memoryFd}`);
      for (const name of ['first', 'second']) {
        await one.vm.vsockHotplug?.unplugVsock();
        const saved = await one.vm.saveState?.(join(spec.dir, name));
        if (saved === undefined) throw new Error('no snapshot');
        const fork = await bench().clone({ spec: { ...spec, memoryFd: one.memoryFd }, snapshot: saved });
        await one.vm.resume();
        await one.vm.vsockHotplug?.plugVsock(300);
        for (const vm of [fork, one.vm, two.vm]) await expectHere(vm);
      }
      // Only the changes, a clone of them, and a clone of that clone.
      if (one.vm.ownBytes !== undefined) {
        let of = one.vm;
        for (const name of ['parent', 'child']) {
          const difference = { path: join(spec.dir, `${name}.difference`), baseDigest: before };
          await of.vsockHotplug?.unplugVsock();
          const own = (await of.ownBytes?.()) ?? 0;
          const saved = await written(of.saveState?.(join(spec.dir, `${name}.state`), { difference }));
          if (saved === undefined) throw new Error('no snapshot');
          expect(saved.difference).toEqual(difference);
          expect(statSync(difference.path).size).toBeLessThan(own + 100_000);
          const [applied, whole] = [bench().memory(spec), bench().memory(spec)].map(pathOf);
          await Promise.all([applied, whole].map((path) => copyInto(path ?? '')));
          await applyDifference(difference, applied ?? '');
          await of.saveState?.(join(spec.dir, `${name}.whole`), { ramPath: whole ?? '' });
          expect(digestOf(applied ?? '')).toBe(digestOf(whole ?? ''));
          expect(digestOf(applied ?? '')).not.toBe(before);
          const plain = bench().spec();
          const child = await bench().clone(
            { spec, snapshot: { ...saved, memoryPath } },
            { ...plain, memoryFd: bench().memory(plain) },
          );
          await of.resume();
          await of.vsockHotplug?.plugVsock(400);
          for (const vm of [child, of]) await expectHere(vm);
          of = child;
        }
        await refuseDamage(bench(), { spec, memoryPath, of });
      }
      expect(digest()).toBe(before);
      // A VMM that can write the file finds it sealed.
      if (bench().driver.name !== 'qemu') expect(statSync(memoryPath).mode & 0o777).toBe(0o444);
      else expect(() => writeFileSync(memoryPath, 'x', { flag: 'r+' })).toThrow('EPERM');
      await drop();
      await shared.close();
    });
  });
}

/** A difference that is truncated, altered, missing or based on other RAM starts nothing. */
async function refuseDamage(
  bench: VmBench,
  { spec, memoryPath, of }: { spec: VmSpec; memoryPath: string; of: Vm },
): Promise<void> {
  const difference = { path: join(spec.dir, 'damaged'), baseDigest: 'ab'.repeat(32) };
  await of.vsockHotplug?.unplugVsock();
  const saved = await written(of.saveState?.(join(spec.dir, 'damaged.state'), { difference }));
  if (saved === undefined) throw new Error('no snapshot');
  const whole = readFileSync(difference.path);
  const altered = Buffer.from(whole);
  altered.writeUInt32LE(0xffff_ffff, altered.length - 4);
  const before = held();
  const refuse = async (change: Partial<RamDifference>): Promise<void> => {
    const snapshot = { ...saved, memoryPath, difference: { ...difference, ...change } };
    const clone = bench.clone({ spec, snapshot });
    await expect(clone).rejects.toMatchObject({ code: 'snapshot_refused' });
  };
  for (const bytes of [whole.subarray(0, -1), whole.subarray(0, 63), Buffer.alloc(0), altered]) {
    writeFileSync(difference.path, bytes);
    await refuse({});
  }
  writeFileSync(difference.path, whole);
  await refuse({ baseDigest: 'cd'.repeat(32) });
  await refuse({ path: join(spec.dir, 'none') });
  await expectReleased(before);
}

const pathOf = (fd: number): string => `/proc/self/fd/${fd}`;

const digestOf = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');

async function expectHere(vm: Vm): Promise<void> {
  await expect.poll(() => ask(vm, 'PRINT here').catch(String), PATIENT).toBe('done');
}

/** Rights and sizes of the VMM's mapping of that file. */
function mappingOf(vm: Vm, path: string) {
  const { ino } = statSync(path);
  const smaps = readFileSync(`/proc/${vm.pid}/smaps`, 'latin1');
  const entry = smaps.split(/^(?=[0-9a-f]+-)/m).find((each) => each.split(' ')[4] === `${ino}`);
  if (entry === undefined) throw new Error('the VMM does not map the file');
  const kib = (name: string): number => Number(new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(entry)?.[1]);
  const rights = entry.split(' ')[1];
  return { rights, residentKib: kib('Rss'), privateKib: kib('Private_Dirty') };
}

/** The saved files, complete. */
async function written(saving: Promise<SavedState> | undefined): Promise<VmSnapshot | undefined> {
  const saved = await saving;
  if (saved === undefined) return undefined;
  const { rest, ...snapshot } = saved;
  await rest?.write();
  await rest?.close();
  return snapshot;
}
