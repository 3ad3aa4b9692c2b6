/**
 * The interface of a host of sandboxes. CLI, library and REST server do not know where the sandboxes are.
 *
 *     CLI, library ──► ControlPlane ◄── implemented by  control-plane.ts  (in this process)
 *                                                       src/api/client        (a daemon, over HTTP)
 *
 * Types only. Times of day are milliseconds since 1970, durations milliseconds.
 */
import type { GuestAccess } from './guest-access.ts';
import type { Pools } from './pools.ts';
import type { Sandboxes } from './sandboxes.ts';
import type { Snapshots } from './snapshots.ts';
import type { StoredSecrets } from './stored-secrets.ts';
import type { Volumes } from './volumes.ts';
import type { Watch } from './watch.ts';

export type * from './guest-access.ts';
export type * from './pools.ts';
export type * from './sandboxes.ts';
export type { MemoryAction, TimeoutAction } from './schema/request.ts';
export type { NetworkInfo, PauseReason, PauseTarget, SandboxInfo, SandboxStatus } from './schema/sandbox.ts';
export type * from './snapshots.ts';
export type * from './stored-secrets.ts';
export type * from './volumes.ts';
export type * from './watch.ts';

/** One interface per role. Methods that take an id throw SandboxError `not_found` if there is no such sandbox. */
export interface ControlPlane extends Sandboxes, Snapshots, Volumes, StoredSecrets, Pools, GuestAccess, Watch {}
