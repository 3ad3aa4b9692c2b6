/** Joins two TAPs by carrying frames between them, in a thread of its own (io). */
import { Worker } from 'node:worker_threads';
import { modulePath } from '../base/module-path.ts';
import type { CableEnds } from './cable-worker.ts';

/** Both descriptors stay the caller's and must stay open while the cable is there. */
export function startCable(ends: CableEnds): AsyncDisposable {
  const worker = new Worker(modulePath('./cable-worker.ts', import.meta.url), { workerData: ends });
  worker.unref();
  return {
    [Symbol.asyncDispose]: async () => {
      await worker.terminate();
    },
  };
}
