/**
 * One fuzzing thread: a target, its inputs so far, and the loop. It writes each input to shared memory before it runs
 * it, so that the main thread still has it if the thread hangs or dies.
 */
import { setImmediate } from 'node:timers/promises';
import { inspect } from 'node:util';
import { parentPort, workerData } from 'node:worker_threads';
import { loadTarget } from '../../test/fuzz/registry.ts';
import { randomFrom } from '../../test/support/run-seed.ts';
import { Engine, type Failure } from './engine.ts';
import { loadInstrumented } from './load.ts';
import type { FromWorker, Job, ToWorker } from './messages.ts';
import { Inbox } from './messages.ts';

const TURN_MS = 100;
const REPORT_MS = 1000;

const job = workerData as Job;
const port = parentPort;
if (port === null) throw new Error('this file runs in a worker thread');
const send = (message: FromWorker): void => port.postMessage(message);
const inputs: Uint8Array[] = [];
let isStopped = false;
port.on('message', (message: ToWorker) => {
  if (message.kind === 'stop') isStopped = true;
  else inputs.push(message.bytes);
});

const { target, literals } = await loadInstrumented(() => loadTarget(job.name));
const current = new Inbox(job.current);
const engine = new Engine(target, {
  random: randomFrom(job.seed),
  literals,
  countsBranchesOnly: job.countsBranchesOnly,
  onRun: (bytes) => current.put(bytes),
});
const startMs = performance.now();
let reportedMs = startMs;
send({ kind: 'ready' });
const failure = (await engine.seed(job.inputs)) ?? (await loop());
report();
if (failure !== undefined) await fail(failure);
send({ kind: 'end', inputs: engine.corpus.found.map(({ bytes }) => bytes) });
port.close();

async function loop(): Promise<Failure | undefined> {
  const endMs = startMs + job.timeMs;
  while (!isStopped && performance.now() < endMs && engine.executions < job.runs) {
    const turnEndMs = Math.min(endMs, performance.now() + TURN_MS);
    const known = engine.corpus.added;
    while (performance.now() < turnEndMs && engine.executions < job.runs) {
      const running = engine.step();
      const found = running instanceof Promise ? await running : running;
      if (found !== undefined) return found;
    }
    for (const bytes of engine.corpus.newest(known)) send({ kind: 'input', bytes });
    await setImmediate();
    for (const bytes of inputs.splice(0)) {
      const found = await engine.run(bytes);
      if (found !== undefined) return found;
    }
    if (performance.now() - reportedMs > REPORT_MS) report();
  }
  return undefined;
}

function report(): void {
  reportedMs = performance.now();
  const { entries, features, branches } = engine.corpus;
  const bytes = entries.reduce((sum, entry) => sum + entry.bytes.length, 0);
  const { executions } = engine;
  send({
    kind: 'progress',
    progress: { executions, ms: reportedMs - startMs, inputs: entries.length, bytes, features, branches },
  });
}

async function fail(failed: Failure): Promise<void> {
  const { bytes, error } = await engine.shrink(failed);
  send({ kind: 'failure', bytes, reason: inspect(error), meaning: target.describe(bytes) });
}
