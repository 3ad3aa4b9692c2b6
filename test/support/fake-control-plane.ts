/**
 * A `ControlPlane` in memory, whose sandboxes are real guest agents as processes of this machine: programs run, files
 * are written, the shell works, all as this user on this machine's file system. So use paths in `dirOf(id)`. The agent
 * starts at the first use of its guest, so that `create` costs nothing.
 *
 * Not real: snapshots keep nothing, forks and clones share nothing but their options, and a paused sandbox's programs
 * continue.
 */
import type {
  ControlPlane,
  CreateRequest,
  GuestAccess,
  Pools,
  Snapshots,
  StoredSecrets,
  Volumes,
} from '../../src/sandbox/contract/control.ts';
import { fakeGuestAccess } from './fake-guest-access.ts';
import { fakePools } from './fake-pools.ts';
import { type FakeOptions, FakeSandboxes } from './fake-sandboxes.ts';
import { fakeSecrets } from './fake-secrets.ts';
import { fakeSnapshots } from './fake-snapshots.ts';
import { fakeVolumes } from './fake-volumes.ts';
import { fakeWatch } from './fake-watch.ts';

export type { FakeOptions } from './fake-sandboxes.ts';

type Roles = FakeSandboxes & Snapshots & Volumes & StoredSecrets & Pools & GuestAccess & ReturnType<typeof fakeWatch>;

/** Each role is an object of its own, and acts on the same sandboxes. */
const WithRoles = class extends FakeSandboxes {
  constructor(options?: FakeOptions) {
    super(options);
    Object.assign(
      this,
      fakeSnapshots(this),
      fakeVolumes(this),
      fakeSecrets(this),
      fakePools(this),
      fakeGuestAccess(this),
      fakeWatch(this),
    );
  }
} as new (
  options?: FakeOptions,
) => Roles;

export class FakeControlPlane extends WithRoles implements ControlPlane {}

/** A `beforeCreate` that waits until the caller disconnects. */
export async function untilCancelled(_request: CreateRequest, signal: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve) => {
    signal?.addEventListener('abort', () => resolve(), { once: true });
  });
}
