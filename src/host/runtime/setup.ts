/**
 * Prepares this machine for sandboxes: host packages, kernel, golden image and, without another model server, a small
 * model. Everything is cached by digest; a second call takes milliseconds.
 */

import { dirname } from 'node:path';
import { chooseBuilds } from '../../artifacts/image/build-choice.ts';
import { requireSpace } from '../../artifacts/image/disk-space.ts';
import {
  type HostPackage,
  installHostPackages,
  KERNEL_PACKAGES,
  missingHostPackages,
  RUN_PACKAGES,
  TEST_PACKAGES,
} from '../../artifacts/image/host-packages.ts';
import { prepareBuiltKernel, prepareKernel } from '../../artifacts/image/kernel/kernel.ts';
import { withSetupLock } from '../../artifacts/image/lock.ts';
import { prepareModel } from '../../artifacts/image/model.ts';
import { holdArtifact } from '../../artifacts/image/prepare.ts';
import { isPrepared, neededPackages } from '../../artifacts/image/prepared.ts';
import type { GuestPackages } from '../../artifacts/image/rootfs/debian-lock.ts';
import { prepareRootfs } from '../../artifacts/image/rootfs/rootfs.ts';
import { systemClock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import { together } from '../../base/fairness/together.ts';
import type { Home } from '../../base/home.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import type { Progress } from '../../base/progress.ts';
import { GIB } from '../../base/units.ts';

export interface SetupContext {
  readonly cacheDir: string;
  /** Root of the checkout: `kernel/`, `image/`, `guest/` are read from it. */
  readonly sourceDir: string;
  readonly progress: Progress;
  readonly signal: AbortSignal;
  readonly log: Log;
}

export function setupContext(
  { progress, signal, log }: Pick<SetupContext, 'progress' | 'signal' | 'log'>,
  { cacheDir }: Pick<Home, 'cacheDir'>,
): SetupContext {
  return { cacheDir, sourceDir: PACKAGE_DIR, progress, signal, log };
}

export interface Artifacts {
  readonly kernelPath: string;
  readonly kernelDigest: string;
  readonly rootImagePath: string;
  readonly rootImageDigest: string;
  readonly guestPackages: GuestPackages;
  readonly overlayTemplatePath: string;
  /** `null` if none was requested. Pending while it is fetched; rejects as a set-up does. */
  readonly model: Promise<Model | null>;
  /** Lets other set-ups remove these artifacts, as does the end of this process. Ends the model's fetch. */
  readonly release: () => Promise<void>;
}

export interface SetupOptions {
  readonly withModel: boolean;
  /** True: does not wait for the model; its users wait for `Artifacts.model`. Default: false. */
  readonly modelLater?: boolean | undefined;
}

export interface Model {
  readonly path: string;
  readonly id: string;
}

/**
 * Artifacts that exist are read without a lock.
 * @throws ImageError with a remedy
 */
export async function ensureArtifacts(context: SetupContext, options: SetupOptions): Promise<Artifacts> {
  if (await isReady(context, options)) return await prepareAll(context, options, []);
  return await withSetupLock(context, async () => {
    if (await isReady(context, options)) return await prepareAll(context, options, []);
    const { progress } = context;
    const prepared = await isPrepared(context, options);
    const missing = await missingHostPackages(prepared ? RUN_PACKAGES : await neededPackages(context));
    if (prepared) return await prepareAll(context, options, missing);
    await requireSpace(context.cacheDir, SPACE_BYTES, 'Setting this machine up');
    const startedAt = systemClock.now();
    const step = SETUP_STEP;
    const title = 'Set this machine up, once';
    progress({ kind: 'start', step, title });
    try {
      const artifacts = await prepareAll(context, options, missing);
      const durationMs = systemClock.now() - startedAt;
      progress({ kind: 'done', step, cached: false, durationMs });
      return artifacts;
    } catch (error) {
      progress({ kind: 'failed', step, message: describeError(error) });
      throw error;
    }
  });
}

/**
 * Switches between building guest kernel and init from source and the prebuilt ones. A failed build changes nothing.
 * @throws ImageError
 */
export function chooseKernel(context: SetupContext, fromSource: boolean): Promise<void> {
  return withSetupLock(context, async () => {
    if (!fromSource) return await chooseBuilds(context.cacheDir, false);
    await installHostPackages(context, await missingHostPackages(KERNEL_PACKAGES));
    await prepareBuiltKernel(context);
    await chooseBuilds(context.cacheDir, true);
  });
}

async function isReady(context: SetupContext, options: SetupOptions): Promise<boolean> {
  if (!(await isPrepared(context, options))) return false;
  return (await missingHostPackages(RUN_PACKAGES)).length === 0;
}

/** Installs the packages that only tests need. @throws ImageError */
export async function ensureTestPackages(context: Pick<SetupContext, 'progress' | 'signal' | 'log'>): Promise<void> {
  await installHostPackages(context, await missingHostPackages(TEST_PACKAGES));
}

const SETUP_STEP = 'setup';

/** Peak disk usage of the concurrent builds; more than a gigabyte remains afterwards. */
export const SPACE_BYTES = 4 * GIB;

async function prepareAll(
  context: SetupContext,
  options: SetupOptions,
  missing: readonly HostPackage[],
): Promise<Artifacts> {
  if (missing.length > 0) await installHostPackages(context, missing);
  else context.progress({ kind: 'done', step: 'host-packages', cached: true, durationMs: 0 });
  // Run concurrently: some need a processor, the others mostly wait for the network.
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  const model = options.withModel ? prepareModel({ ...context, signal }) : Promise.resolve(null);
  model.catch((error: unknown) => ignore(error, 'reported to those who wait for the model'));
  try {
    const [kernel, rootfs] = await together(signal, [
      (its) => prepareKernel({ ...context, signal: its }),
      (its) => prepareRootfs({ ...context, signal: its }),
      async () => (options.modelLater === true ? null : await model),
    ]);
    const holds = [kernel.path, rootfs.imagePath].map((path) => holdArtifact(dirname(path)));
    return {
      kernelPath: kernel.path,
      kernelDigest: kernel.digest,
      rootImagePath: rootfs.imagePath,
      rootImageDigest: rootfs.digest,
      guestPackages: rootfs.packages,
      overlayTemplatePath: rootfs.overlayTemplatePath,
      model: model.then((made) => (made === null ? null : { path: made.path, id: made.id })),
      async release() {
        stop.abort();
        await Promise.allSettled([model]);
        for (const release of holds.splice(0)) release();
      },
    };
  } catch (error) {
    stop.abort(error);
    await Promise.allSettled([model]);
    throw error;
  }
}
