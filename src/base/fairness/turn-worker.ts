/** The thread's end of `turn-threads.ts`: one job at a time. */
import { setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../assert.ts';
import { ignore } from '../ignore.ts';

export interface WorkerSetup {
  /** Priority of this thread alone, a Linux feature. */
  readonly nice: number;
}

export interface Done<Answer> {
  readonly answer: Answer;
  /** Memory that is transferred to the main thread. */
  readonly transfer: readonly ArrayBuffer[];
}

/** @param work if it throws, the thread ends */
export function serveTurns<Request, Answer>(work: (request: Request) => Done<Answer>): void {
  assert(parentPort !== null, 'a module of TurnThreads runs as a worker thread');
  const port = parentPort;
  try {
    const { nice } = workerData as WorkerSetup;
    if (nice !== 0) setPriority(0, nice);
  } catch (error) {
    ignore(error, 'a system without priorities of threads');
  }
  port.on('message', (request: Request) => {
    const { answer, transfer } = work(request);
    port.postMessage(answer, [...transfer]);
  });
}
