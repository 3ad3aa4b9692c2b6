/** The volumes of the control plane in memory: they keep nothing. */
import { systemClock } from '../../src/base/clock.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import type { VolumeInfo, Volumes } from '../../src/sandbox/contract/control.ts';
import { SandboxError } from '../../src/sandbox/contract/errors.ts';
import type { FakeSandboxes } from './fake-sandboxes.ts';

export function fakeVolumes({ before }: FakeSandboxes): Volumes {
  const all = new Map<string, VolumeInfo>();
  return {
    createVolume: async ({ name, sizeMib = 2048, annotations = {} }) => {
      before('createVolume');
      if (all.has(name)) throw new SandboxError('name_taken', `volume ${name}: another one has this name`);
      const createdAtMs = systemClock.wall();
      const made = { id: newSandboxId(), name, annotations, sizeMib, bytes: 4096, createdAtMs, attached: [] };
      all.set(name, made);
      return made;
    },
    volumes: async () => {
      before('volumes');
      return [...all.values()];
    },
    removeVolume: async (idOrName) => {
      before('removeVolume');
      const name = [...all.values()].find(({ id }) => id === idOrName)?.name ?? idOrName;
      if (!all.delete(name)) throw new SandboxError('not_found', `volume ${name}: there is none`);
    },
  };
}
