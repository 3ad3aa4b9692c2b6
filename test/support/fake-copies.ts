/** Copies between files and memory in a fake host, whose RAM are small files. */
import { copyFile, open, readFile, writeFile } from 'node:fs/promises';
import type { GuestMemory, MappedMemory } from '../../src/sandbox/contract/parts.ts';
import type { Copies } from '../../src/sandbox/plane/copies.ts';
import { linkOrCopy } from '../../src/sys/link-or-copy.ts';
import { sealFile, unsealInto, unsealNew } from '../../src/sys/sealed-file.ts';
import { digestSparse } from '../../src/sys/sparse.ts';
import type { Phase, Script } from './fake-script.ts';
import { type FakeVm, readFakeDifference } from './fake-vm.ts';

/** `differences`: like QEMU, whose saves can write only a VM's changes. */
export type FakeSharing = boolean | 'differences';

export interface FakeCopiesParts {
  readonly script: Script;
  readonly sharing: FakeSharing;
  vmOf(path: string): FakeVm | undefined;
  isOfVm(path: string): boolean;
  makeMemory(): GuestMemory;
  /** Counts resources in use. @returns a function that releases it */
  lease(kind: string): () => void;
}

export function fakeCopies(parts: FakeCopiesParts): Copies {
  const { script, sharing, vmOf, isOfVm, makeMemory } = parts;
  const keep = (phase: Phase) => async (from: string, to: string) => {
    // Like a copy that fails halfway.
    await writeFile(to, 'a part');
    await script.step(phase, vmOf(from));
    await copyFile(from, to);
  };
  const mapMemory = (path: string): Promise<MappedMemory> => openMapped(parts, path);
  return {
    keepMemory: keep('keep-memory'),
    holdMemory: keep('keep-memory'),
    fillMemory: async (from, to) => {
      await script.step('fill-memory');
      await writeFile(to, await readFile(from), { flag: 'r+' });
    },
    cloneDisk: (from, to) => keep(isOfVm(from) ? 'keep-disk' : 'copy-disk')(from, to),
    seal: async (from, to, key) => {
      await script.step('keep-sealed', vmOf(from));
      await sealFile(from, to, key);
    },
    unsealNew,
    unsealInto,
    linkFile: linkOrCopy,
    makeMemory,
    makeScratch: makeMemory,
    applyDifference: async (difference, to) => {
      await writeFile(to, await readFakeDifference(difference));
    },
    ...(sharing === false ? {} : { mapMemory, holdsMapped: sharing === 'differences' }),
  };
}

async function openMapped(parts: FakeCopiesParts, path: string): Promise<MappedMemory> {
  const { script, sharing, lease } = parts;
  await script.step('map-memory');
  const file = await open(path);
  const text = await file.readFile('utf8');
  const use = (): MappedMemory => {
    const leave = lease('mappings');
    let isOpen = true;
    users += 1;
    return {
      path: `/proc/self/fd/${file.fd}`,
      copyInto: async (to) => {
        await script.step('fill-memory');
        await writeFile(to, text, { flag: 'r+' });
      },
      ...(sharing === 'differences' ? { base } : {}),
      close: async () => {
        if (!isOpen) return;
        isOpen = false;
        leave();
        users -= 1;
        if (users === 0) await file.close();
      },
    };
  };
  let users = 0;
  const base = {
    digest: () => digestSparse(`/proc/self/fd/${file.fd}`),
    dataBytes: text.length,
    open: async () => use(),
  };
  return use();
}
