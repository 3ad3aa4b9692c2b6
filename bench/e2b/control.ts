/**
 * Creations through E2B's control plane: HTTP, keys, schemas and views, on a control plane whose sandboxes are rows of
 * a map. The server is a thread of its own; the clients are this one.
 */
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { Worker } from 'node:worker_threads';
import { sleep } from '../../src/base/clock.ts';
import { modulePath } from '../../src/base/module-path.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import type { LoopReport, ServerReady } from './server.ts';

const CLIENTS = 16;
/** Rate for measuring the event loop: creations begin at this rate, however long they take. */
const PACED_PER_SECOND = 1000;
const PACED_MS = 1000;
const PACE_MS = 5;
const SOCKETS_MAX = 128;
const WARM_UP = 500;
const CREATIONS_PER_ROUND = 1000;
const BODY = JSON.stringify({ templateID: 'agent', metadata: { owner: 'bench' }, envVars: {} });

export const e2bControlBenchmark: Benchmark = {
  names: ['e2b.control.create', 'e2b.control.rate', 'e2b.control.loop'],
  summary: `creations by ${CLIENTS} clients at once through E2B's control plane, without VMs; its event loop at ${PACED_PER_SECOND} creations a second`,
  withoutRuntime: true,
  async measure({ rounds, signal, say }) {
    say(`${rounds} rounds of ${CREATIONS_PER_ROUND} creations by ${CLIENTS} clients at once`);
    const worker = new Worker(modulePath('./server.ts', import.meta.url), { name: 'e2b' });
    const agent = new Agent({ keepAlive: true, maxSockets: SOCKETS_MAX });
    try {
      const [ready] = (await once(worker, 'message', { signal })) as [ServerReady];
      const create = (): Promise<number> => createMs(ready, agent);
      await inParallel(WARM_UP, create);
      const latencies: number[] = [];
      const rates: number[] = [];
      for (let round = 0; round < rounds && !signal.aborted; round += 1) {
        const began = performance.now();
        latencies.push(...(await inParallel(CREATIONS_PER_ROUND, create)));
        rates.push((CREATIONS_PER_ROUND * 1000) / (performance.now() - began));
      }
      const loop = await loopDelays(worker, { rounds, signal, say }, create);
      return [...figures(latencies, rates), loop];
    } finally {
      agent.destroy();
      await worker.terminate();
    }
  },
};

function figures(latencies: readonly number[], rates: readonly number[]): Measurement[] {
  const sorted = latencies.toSorted((a, b) => a - b);
  const p99 = sorted[Math.floor(sorted.length * 0.99)] ?? 0;
  const both = { accelerator: 'none', baseline: null } as const;
  return [
    {
      ...both,
      name: 'e2b.control.create',
      unit: 'ms',
      samples: latencies,
      note: `p99 ${p99.toFixed(1)} ms; clients and server are two threads of one process`,
    },
    { ...both, name: 'e2b.control.rate', unit: '1/s', samples: rates },
  ];
}

/** Delay of the server's event loop: p99 of each round of paced creations, against rounds without any. */
async function loopDelays(
  worker: Worker,
  { rounds, signal, say }: Pick<BenchContext, 'rounds' | 'signal' | 'say'>,
  create: () => Promise<number>,
): Promise<Measurement> {
  const report = async (): Promise<LoopReport> => {
    const answer = once(worker, 'message', { signal });
    worker.postMessage('report');
    const [loop] = (await answer) as [LoopReport];
    return loop;
  };
  const loaded: LoopReport[] = [];
  const idle: number[] = [];
  const begun: number[] = [];
  for (let round = 0; round < rounds && !signal.aborted; round += 1) {
    say(`event loop, round ${round + 1} of ${rounds}`);
    await report();
    await sleep(PACED_MS, signal);
    idle.push((await report()).p99Ms);
    begun.push(await paced(create, signal));
    loaded.push(await report());
  }
  const longest = Math.max(...loaded.map(({ maxMs }) => maxMs));
  const least = Math.min(...begun);
  return {
    name: 'e2b.control.loop',
    unit: 'ms',
    accelerator: 'none',
    samples: loaded.map(({ p99Ms }) => p99Ms),
    baseline: { name: 'without requests', samples: idle },
    note: `p99 of a second of ${PACED_PER_SECOND} creations (at least ${least.toFixed(0)}/s were made); longest delay ${longest.toFixed(1)} ms`,
  };
}

/** Begins creations at a fixed rate and waits for all. @returns creations per second */
async function paced(create: () => Promise<number>, signal: AbortSignal): Promise<number> {
  const began = performance.now();
  const all: Promise<number>[] = [];
  const wanted = (PACED_PER_SECOND * PACED_MS) / 1000;
  while (all.length < wanted) {
    const due = Math.min(wanted, ((performance.now() - began) * PACED_PER_SECOND) / 1000);
    while (all.length < due) all.push(create());
    await sleep(PACE_MS, signal);
  }
  await Promise.all(all);
  return (all.length * 1000) / (performance.now() - began);
}

/** Runs `work` this many times, for all clients together. */
async function inParallel(times: number, work: () => Promise<number>): Promise<number[]> {
  const done: number[] = [];
  let left = times;
  const client = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      done.push(await work());
    }
  };
  await Promise.all(Array.from({ length: CLIENTS }, client));
  return done;
}

/** Time from the call to the last byte of the answer. @throws unless the sandbox was created */
function createMs({ port, apiKey }: ServerReady, agent: Agent): Promise<number> {
  const began = performance.now();
  return new Promise((resolve, reject) => {
    const headers = { 'x-api-key': apiKey, 'content-type': 'application/json' };
    const path = '/v2/sandboxes';
    const sent = request({ host: '127.0.0.1', port, agent, method: 'POST', path, headers });
    sent.once('error', reject);
    sent.once('response', (answer) => {
      answer.resume();
      answer.once('end', () => {
        if (answer.statusCode === 201) resolve(performance.now() - began);
        else reject(new Error(`a creation was answered with ${answer.statusCode}`));
      });
    });
    sent.end(BODY);
  });
}
