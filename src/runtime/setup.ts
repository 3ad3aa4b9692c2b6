/**
 * Prepares this machine for sandboxes: host packages, kernel, golden image and, without another model server, a small
 * model. Everything is cached by digest; a second call takes milliseconds.
 */
import { dirname, join } from 'node:path';
import { systemClock } from '../base/clock.ts';
import { describeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Progress } from '../base/progress.ts';
import { GIB } from '../base/units.ts';
import { chooseBuilds } from '../image/build-choice.ts';
import type { GuestPackages } from '../image/debian-lock.ts';
import { requireSpace } from '../image/disk-space.ts';
import {
  installHostPackages,
  KERNEL_PACKAGES,
  missingHostPackages,
  RUN_PACKAGES,
  TEST_PACKAGES,
} from '../image/host-packages.ts';
import { isKernelBuilt, prepareBuiltKernel, prepareKernel } from '../image/kernel/kernel.ts';
import { withSetupLock } from '../image/lock.ts';
import { prepareModel } from '../image/model.ts';
import { holdArtifact } from '../image/prepare.ts';
import { isPrepared, neededPackages } from '../image/prepared.ts';
import { prepareRootfs } from '../image/rootfs.ts';

/** Root of the checkout (or of the installed package). */
export const SOURCE_DIR = join(import.meta.dirname, '../..');

export interface SetupContext {
  readonly cacheDir: string;
  /** Root of the checkout: `kernel/`, `image/`, `guest/` are read from it. */
  readonly sourceDir: string;
  readonly progress: Progress;
  readonly signal: AbortSignal;
  readonly log: Log;
}

export interface Artifacts {
  readonly kernelPath: string;
  readonly kernelDigest: string;
  readonly rootImagePath: string;
  readonly rootImageDigest: string;
  /** Debian packages of the root image. */
  readonly guestPackages: GuestPackages;
  readonly overlayTemplatePath: string;
  readonly model: Model | null;
  /** Until this is called, or this process ends, no other set-up removes them. */
  readonly release: () => void;
}

export interface Model {
  readonly path: string;
  readonly id: string;
}

/** @throws ImageError with a remedy */
export function ensureArtifacts(
  context: SetupContext,
  options: { readonly withModel: boolean },
): Promise<Artifacts> {
  return withSetupLock(context, async () => {
    const prepared = await isPrepared(context, options);
    if (prepared) return await prepareAll(context, options, true);
    const { progress } = context;
    await requireSpace(context.cacheDir, SPACE_BYTES, 'Setting this machine up');
    const startedAt = systemClock.now();
    const step = SETUP_STEP;
    const title = 'Set this machine up, once';
    const buildsKernel = await isKernelBuilt(context);
    const estimateMs = buildsKernel ? ESTIMATE_WITH_KERNEL_MS : ESTIMATE_MS;
    progress({ kind: 'start', step, title, estimateMs, isWhole: true });
    try {
      const counted = {
        ...context,
        progress: withTotal(progress, buildsKernel ? SHARES_WITH_KERNEL : SHARES),
      };
      const artifacts = await prepareAll(counted, options, false);
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
 * Builds guest kernel and init from source from now on, or uses those that are shipped. A build that fails changes nothing.
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

/** Installs the packages that only tests need. @throws ImageError */
export async function ensureTestPackages(
  context: Pick<SetupContext, 'progress' | 'signal' | 'log'>,
): Promise<void> {
  await installHostPackages(context, await missingHostPackages(TEST_PACKAGES));
}

const SETUP_STEP = 'setup';

/** Measured shares of the time; only the overall progress bar depends on them. */
type Shares = Readonly<Record<string, number>>;
const SHARES: Shares = { 'host-packages': 0.1, kernel: 0.01, rootfs: 0.8, model: 0.09 };
const SHARES_WITH_KERNEL: Shares = {
  'host-packages': 0.08,
  kernel: 0.75,
  rootfs: 0.14,
  model: 0.03,
};

/** Passes events on, each followed by the overall progress. */
function withTotal(progress: Progress, shares: Shares): Progress {
  const fractions = new Map<string, number>();
  return (event) => {
    progress(event);
    const known = event.kind === 'done' ? 1 : event.kind === 'update' ? event.fraction : undefined;
    if (known === undefined) return;
    fractions.set(event.step, known);
    let fraction = 0;
    for (const [step, done] of fractions) fraction += (shares[step] ?? 0) * done;
    progress({ kind: 'update', step: SETUP_STEP, fraction });
  };
}

/** For a complete set-up on 2 cores. */
const ESTIMATE_MS = 2 * 60_000;
const ESTIMATE_WITH_KERNEL_MS = 6 * 60_000;

/** Peak disk usage of the concurrent builds; more than a gigabyte remains afterwards. */
export const SPACE_BYTES = 4 * GIB;

async function prepareAll(
  context: SetupContext,
  options: { readonly withModel: boolean },
  prepared: boolean,
): Promise<Artifacts> {
  const missing = await missingHostPackages(
    prepared ? RUN_PACKAGES : await neededPackages(context),
  );
  if (missing.length > 0) await installHostPackages(context, missing);
  else context.progress({ kind: 'done', step: 'host-packages', cached: true, durationMs: 0 });
  // Concurrently: a kernel build needs the processors, the others mostly wait for the network.
  const aborter = new AbortController();
  const signal = AbortSignal.any([context.signal, aborter.signal]);
  const shared = { ...context, signal };
  const kernel = prepareKernel(shared);
  const rootfs = prepareRootfs(shared);
  const model = options.withModel ? prepareModel(shared) : Promise.resolve(null);
  const all = [kernel, rootfs, model];
  for (const one of all) one.catch((error: unknown) => aborter.abort(error));
  // All are awaited, so that no build is still running when the first failure is thrown.
  await Promise.allSettled(all);
  if (aborter.signal.aborted && !context.signal.aborted) throw aborter.signal.reason;
  const [k, r, m] = await Promise.all([kernel, rootfs, model]);
  const holds = [k.path, r.imagePath].map((path) => holdArtifact(dirname(path)));
  return {
    kernelPath: k.path,
    kernelDigest: k.digest,
    rootImagePath: r.imagePath,
    rootImageDigest: r.digest,
    guestPackages: r.packages,
    overlayTemplatePath: r.overlayTemplatePath,
    model: m === null ? null : { path: m.path, id: m.id },
    release() {
      for (const release of holds.splice(0)) release();
    },
  };
}
