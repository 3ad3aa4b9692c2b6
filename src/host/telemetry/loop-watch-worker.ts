/**
 * The watching thread of `loop-watch.ts`: it waits for the beat of the main thread, and takes the main thread's stack
 * when the beat is late.
 *
 * V8 runs `Runtime.evaluate` of an inspector session between two instructions of the main thread's JavaScript, on top
 * of the code that runs: its stack is that code's, and takes about a millisecond. There is no debugger and no port. A
 * session that stays would make the process wait for it at its end.
 */
import { writeSync } from 'node:fs';
import { Session } from 'node:inspector/promises';
import { setTimeout } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../../base/assert.ts';
import { ignore } from '../../base/ignore.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import type { Sample } from './long-turns.ts';
import type { WatchSetup } from './loop-watch.ts';
import { placeOf } from './place.ts';

/** Evaluated in the main thread. Returns its time and stack. */
const EXPRESSION = `(() => {
  const most = Error.stackTraceLimit;
  Error.stackTraceLimit = 40;
  const { stack } = new Error();
  Error.stackTraceLimit = most;
  return JSON.stringify([performance.now(), stack]);
})()`;
const ROOT = `${PACKAGE_DIR}/`;

assert(parentPort !== null, 'this module runs as a worker thread');
const port = parentPort;
// The wait for an answer of the inspector alone would not keep the thread alive.
port.on('message', () => undefined);

const { shared, lateMs, hungMs } = workerData as WatchSetup;
const beats = new Int32Array(shared);
let sampled: number | undefined;
// Waits, not time: that also passes while this process is stopped (SIGSTOP).
let waits = 0;
for (;;) {
  const beat = Atomics.load(beats, 0);
  const isLate = Atomics.wait(beats, 0, beat, lateMs) === 'timed-out';
  waits = isLate ? waits + 1 : 0;
  if (waits * lateMs >= hungMs) {
    // Not by `process.stderr`, which needs the main thread.
    writeSync(2, 'neurovisor error: the daemon hangs, and is killed\n');
    process.kill(process.pid, 'SIGKILL');
  }
  if (!isLate || sampled === beat) continue;
  sampled = beat;
  const taken = sample().catch((error: unknown) => ignore(error, 'the turn has no place'));
  // Code outside of JavaScript never answers.
  await (hungMs === Number.POSITIVE_INFINITY
    ? taken
    : Promise.race([taken, setTimeout(hungMs, undefined, { ref: false })]));
}

async function sample(): Promise<void> {
  const session = new Session();
  session.connectToMainThread();
  try {
    const { result } = await session.post('Runtime.evaluate', { expression: EXPRESSION, returnByValue: true });
    const [atMs, stack] = JSON.parse(String(result.value)) as [number, string];
    const place = placeOf(stack, ROOT);
    if (place !== null) port.postMessage({ atMs, place } satisfies Sample);
  } finally {
    session.disconnect();
  }
}
