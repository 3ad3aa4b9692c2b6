/** The other end of `turn-threads.ts`: one job at a time. */
import { setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../assert.ts';
import { ignore } from '../ignore.ts';

export interface WorkerSetup {
  /** Of this thread alone, as Linux has it. */
  readonly nice: number;
}

export interface Done<Answer> {
  readonly answer: Answer;
  /** Memory that moves to the main thread. */
  readonly transfer: readonly ArrayBuffer[];
}

/** @param work one that throws ends the thread */
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
