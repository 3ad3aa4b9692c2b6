/** Proves that no guest and no VMM can change the golden image, which all sandboxes share. */

import { digestFile } from '../../src/artifacts/image/verify.ts';
import { resolveHome } from '../../src/base/home.ts';
import { probeAccelerator } from '../../src/machine/vmm/accelerator/probe.ts';
import { concurrently } from '../concurrently.ts';
import { Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { openProofRuntime } from '../proof-runtime.ts';
import { vmmOf } from '../vmm-of.ts';
import { type Attack, attackImage, noteAttacks } from './image-attacks.ts';
import { FIRECRACKER_FILE, ofQemu, vmmTries } from './image-vmm.ts';
import { Injector } from './inject.ts';

/** Concurrent guests. */
const GUESTS_AT_ONCE = 4;
const SIZE = { memoryMib: 256, diskMib: 64 } as const;

export async function proveImage(context: JailContext): Promise<Proof> {
  const { config } = context;
  if (config.vmm === 'firecracker') {
    const { cacheDir } = resolveHome(config.home);
    const { accelerator } = await probeAccelerator({ cacheDir });
    if (accelerator !== 'kvm') {
      const { proveImageWithoutLinux } = await import('./image-without-linux.ts');
      return await proveImageWithoutLinux(context);
    }
  }
  const notes = new Notes();
  const { guests = 1, signal } = context;
  await using injector = await Injector.make();
  const runtime = await openProofRuntime(context, { jail: 'enforce' });
  try {
    const { rootImagePath, rootImageDigest } = runtime.artifacts;
    const attacks: Attack[] = [];
    const isFirecracker = runtime.driver.name === 'firecracker';
    const image = isFirecracker ? FIRECRACKER_FILE : ofQemu(rootImagePath);
    await concurrently(guests, GUESTS_AT_ONCE, async (index) => {
      signal?.throwIfAborted();
      const sandbox = await runtime.startVm(SIZE);
      try {
        attacks.push(...(await attackImage(sandbox.guest())));
        if (index > 0) return;
        await vmmTries(notes, injector, await vmmOf(runtime, sandbox.spec.id), image);
      } finally {
        await sandbox.stop();
      }
    });
    noteAttacks(notes, guests, attacks);
    const after = await digestFile(rootImagePath);
    const what = guests === 1 ? 'its digest afterwards' : `its digest after ${guests} guests`;
    notes.same(what, rootImageDigest.slice(0, 16), after.slice(0, 16));
  } finally {
    await runtime.close();
  }
  return notes.proof('image');
}
