/**
 * The runtime and its sandboxes in one process, the same for all who open it:
 *
 *     daemon   ─► the store of the home, tenants, a guard of the host's memory
 *     library  ─► the store of the home
 *     run      ─► a store that ends with the command
 */
import { CleanupStack } from '../../base/cleanup.ts';
import type { Log } from '../../base/log.ts';
import { buildReadyMade } from '../builds/environment-build.ts';
import {
  type ControlPlaneOptions,
  type OpenControlPlane,
  openControlPlane,
  openTemporaryControlPlane,
} from '../runtime/control.ts';
import { Runtime, type RuntimeOptions } from '../runtime/runtime.ts';
import type { Upstream } from '../runtime/upstream.ts';

export type OwnRuntimeOptions = Omit<RuntimeOptions, 'buildReadyMade'>;

export interface PlaneOptions extends OwnRuntimeOptions {
  /** @throws CodedError if no detected server can serve the chosen model */
  readonly checkUpstream?: (upstream: Upstream) => void;
  /** Default: the home's store, without tenants. */
  readonly sandboxes?: ControlPlaneOptions | 'temporary';
  /** Of the control plane. Default: `log`. */
  readonly planeLog?: Log;
}

/** Dispose of it to end its sandboxes and close everything. */
export interface Plane extends OpenControlPlane {
  readonly runtime: Runtime;
}

export async function openPlane({ checkUpstream, sandboxes = {}, planeLog, ...own }: PlaneOptions): Promise<Plane> {
  const cleanup = new CleanupStack();
  try {
    const runtime = await openRuntime(own);
    cleanup.push('runtime', () => runtime.close());
    checkUpstream?.(runtime.upstream);
    const log = planeLog ?? own.log;
    const opened =
      sandboxes === 'temporary'
        ? await openTemporaryControlPlane(runtime, log)
        : await openControlPlane(runtime, log, sandboxes);
    cleanup.push('control plane', () => opened[Symbol.asyncDispose]());
    return { ...opened, runtime, [Symbol.asyncDispose]: () => cleanup.run() };
  } catch (error) {
    await cleanup.run();
    throw error;
  }
}

/** Without sandboxes: for commands that build images and templates. */
export const openRuntime = (options: OwnRuntimeOptions): Promise<Runtime> =>
  Runtime.open({ ...options, buildReadyMade });
