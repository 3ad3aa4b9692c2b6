/** Joins two TAPs by copying frames between them in its own thread (I/O). */
import { Worker } from 'node:worker_threads';
import { modulePath } from '../src/base/module-path.ts';
import type { CableEnds } from './cable-worker.ts';

/** The caller owns both descriptors and keeps them open until the cable's disposal. */
export function startCable(ends: CableEnds): AsyncDisposable {
  const worker = new Worker(modulePath('./cable-worker.ts', import.meta.url), { workerData: ends });
  worker.unref();
  return {
    [Symbol.asyncDispose]: async () => {
      await worker.terminate();
    },
  };
}
