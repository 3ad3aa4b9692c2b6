/** A control plane for a benchmark, with its own store that is removed afterwards. */
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CleanupStack } from '../src/base/cleanup.ts';
import { openControlPlane } from '../src/host/runtime/control.ts';
import type { LocalControlPlane } from '../src/sandbox/plane/control-plane.ts';
import type { BenchContext } from './benchmark.ts';

interface BenchControl extends AsyncDisposable {
  readonly control: LocalControlPlane;
  /** On the file system of the user's store, so that writes cost the same. */
  readonly dir: string;
}

/** @param encrypts whether saves are encrypted */
export async function openBenchControl({ runtime, log }: BenchContext, encrypts = false): Promise<BenchControl> {
  const cleanup = new CleanupStack();
  try {
    const dir = await mkdtemp(join(runtime.home.dir, 'bench-'));
    cleanup.push('directory', () => rm(dir, { recursive: true, force: true }));
    const opened = await openControlPlane(runtime, log, { dataDir: join(dir, 'data'), encrypts });
    cleanup.push('control plane', () => opened[Symbol.asyncDispose]());
    return { control: opened.control, dir, [Symbol.asyncDispose]: () => cleanup.run() };
  } catch (error) {
    await cleanup.run();
    throw error;
  }
}

/**
 * Measures how long a sandbox is stopped during `work`, milliseconds, by its guest's clock, which stops too. Accurate
 * to two round trips to the guest.
 */
export async function pausedMs(control: LocalControlPlane, id: string, work: () => Promise<unknown>): Promise<number> {
  const before = await clocks(control, id);
  await work();
  const after = await clocks(control, id);
  return Math.max(0, after.hostMs - before.hostMs - (after.guestMs - before.guestMs));
}

async function clocks(
  control: LocalControlPlane,
  id: string,
): Promise<{ readonly hostMs: number; readonly guestMs: number }> {
  const guest = await control.guest(id);
  const asked = performance.now();
  const { uptimeMs } = await guest.stats();
  return { hostMs: (asked + performance.now()) / 2, guestMs: uptimeMs };
}
