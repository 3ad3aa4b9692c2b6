/** A thread of `body-checker.ts`: one body at a time, whose bytes move here and back. */
import { setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { ignore } from '../base/ignore.ts';
import { type BodyCheck, type CheckedBody, checkBody } from './check-body.ts';
import type { Checked } from './refusal.ts';

export interface WorkerRequest {
  readonly bytes: Uint8Array;
  readonly check: BodyCheck;
}

export interface WorkerAnswer {
  readonly bytes: Uint8Array;
  readonly checked: Checked<CheckedBody>;
}

/** Of this thread alone, as Linux has it: the threads that serve all sandboxes come first. */
const NICE = 10;

assert(parentPort !== null, 'body-worker.ts runs as a worker thread');
const port = parentPort;
try {
  setPriority(0, NICE);
} catch (error) {
  ignore(error, 'a system without priorities of threads');
}
port.on('message', ({ bytes, check }: WorkerRequest) => {
  const { buffer, byteOffset, byteLength } = bytes;
  const checked = checkBody(Buffer.from(buffer, byteOffset, byteLength), check);
  const answer: WorkerAnswer = { bytes, checked };
  port.postMessage(answer, [buffer as ArrayBuffer]);
});
