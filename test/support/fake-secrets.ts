/** The stored secrets of the control plane in memory. */
import { systemClock } from '../../src/base/clock.ts';
import type { StoredSecretInfo, StoredSecrets } from '../../src/sandbox/contract/control.ts';
import { SandboxError } from '../../src/sandbox/contract/errors.ts';
import type { FakeSandboxes } from './fake-sandboxes.ts';

export function fakeSecrets({ before }: FakeSandboxes): StoredSecrets {
  const all = new Map<string, StoredSecretInfo>();
  return {
    secrets: {
      set: async ({ name, replace = false }) => {
        before('setSecret');
        if (all.has(name) && !replace)
          throw new SandboxError('name_taken', `secret ${name}: another one has this name`);
        const atMs = systemClock.wall();
        const made = { name, createdAtMs: all.get(name)?.createdAtMs ?? atMs, updatedAtMs: atMs, sandboxes: [] };
        all.set(name, made);
        return made;
      },
      list: async () => [...all.values()],
      remove: async (name) => {
        if (!all.delete(name)) throw new SandboxError('not_found', `secret ${name}: there is none`);
      },
    },
  };
}
