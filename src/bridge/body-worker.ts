/** A thread of `check-threads.ts`: one body at a time, whose bytes move here and back. */
import { setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { ignore } from '../base/ignore.ts';
import { type BodyCheck, type CheckedBody, checkBody } from './check-body.ts';
import type { Checked } from './refusal.ts';

export interface WorkerSetup {
  /** Of this thread alone, as Linux has it. */
  readonly nice: number;
}

export interface WorkerRequest {
  readonly bytes: Uint8Array;
  readonly check: BodyCheck;
}

export interface WorkerAnswer {
  readonly bytes: Uint8Array;
  readonly checked: Checked<CheckedBody>;
}

assert(parentPort !== null, 'body-worker.ts runs as a worker thread');
const port = parentPort;
try {
  const { nice } = workerData as WorkerSetup;
  if (nice !== 0) setPriority(0, nice);
} catch (error) {
  ignore(error, 'a system without priorities of threads');
}
port.on('message', ({ bytes, check }: WorkerRequest) => {
  const { buffer, byteOffset, byteLength } = bytes;
  const checked = checkBody(Buffer.from(buffer, byteOffset, byteLength), check);
  const answer: WorkerAnswer = { bytes, checked };
  port.postMessage(answer, [buffer as ArrayBuffer]);
});
